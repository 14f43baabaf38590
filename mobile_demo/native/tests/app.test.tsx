/**
 * The whole app, walked by a person who taps. No phone here: camera, files, picker, share sheet and ExecuTorch's C++
 * are stand-ins (tests/fakes); every line of this app, core and react-native-executorch's TypeScript run for real.
 */
import { fireEvent, render, screen, waitFor, within } from "@testing-library/react-native";

import { App } from "../src/App";
import { frames, scene } from "./fakes/camera";
import { alive } from "./fakes/executorch";
import { offered } from "./fakes/files";
import { chosen } from "./fakes/picker";
import { shared } from "./fakes/sharing";
import { fakeModel, offeredModel } from "./models";

const tap = (name: string | RegExp) => fireEvent.press(screen.getByRole("button", { name }));
const open = (name: string) => fireEvent.press(screen.getByRole("tab", { name }));
const idle = () => waitFor(() => expect(screen.queryByText(/ …$/)).toBeNull());
const has = (text: string | RegExp) => waitFor(() => expect(screen.getByText(text)).toBeTruthy());

async function start() {
  render(<App />);
  await idle();
}

async function pickModel(fake = {}) {
  chosen.files = offeredModel(fake);
  tap("Choose files");
  await has("In use");
  await idle();
}

async function addClass(name: string) {
  fireEvent.changeText(screen.getByLabelText("Name of a new class"), name);
  tap("Add class");
  await waitFor(() => expect(screen.getByRole("button", { name: `Add an example of ${name}, 0 so far` })).toBeTruthy());
  await idle();
}

async function show(colour: [number, number, number], name: string, times = 1) {
  scene.colour = colour;
  for (let i = 0; i < times; i++) {
    tap(new RegExp(`^Add an example of ${name}, ${i} so far`));
    await waitFor(() =>
      expect(screen.getByRole("button", { name: `Add an example of ${name}, ${i + 1} so far` })).toBeTruthy(),
    );
    await idle();
  }
}

beforeEach(() => {
  Object.assign(scene, { colour: [0, 0, 0], format: "rgb-bgra-8-bit", permission: "granted" });
  Object.assign(frames, { made: 0, disposed: 0 });
});

test("choose a model, teach two things, see them told apart; all of it is there after a restart", async () => {
  await start();
  await pickModel();
  open("Teach");
  await addClass("apple");
  await addClass("leaf");
  await show([220, 30, 20], "apple", 2);
  await show([20, 200, 40], "leaf");

  screen.unmount();
  expect(alive.size).toBe(0); // native memory is given back
  await start();
  expect(screen.getByText("In use")).toBeTruthy();

  open("Live");
  tap("Recognise");
  scene.colour = [30, 190, 50];
  await waitFor(() => expect(screen.getByLabelText(/^leaf, (9\d|100) percent$/)).toBeTruthy());
  scene.colour = [200, 40, 30];
  await waitFor(() => expect(screen.getByLabelText(/^apple, (9\d|100) percent$/)).toBeTruthy());
  const nearest = screen.getAllByLabelText(/^(apple|leaf), similarity/);
  expect(nearest).toHaveLength(3);
  expect(nearest[0]!.props.accessibilityLabel).toMatch(/^apple, similarity 1.00/);
  expect(nearest[0]!.props.source.uri).toMatch(/^data:image\/png;base64,/);
  tap("Pause");
  await has("Nothing recognised yet.");
  expect(frames.made).toBeGreaterThan(0);
  expect(frames.disposed).toBe(frames.made); // or a phone's camera stalls
});

test("classes are renamed, examples removed, exported and imported", async () => {
  await start();
  await pickModel();
  open("Teach");
  await addClass("apple");
  await show([220, 30, 20], "apple", 2);
  tap("Edit");
  fireEvent.changeText(screen.getByLabelText("New name of apple"), "cherry");
  tap("Rename apple");
  await has("cherry");
  await idle();
  tap("Remove example 1 of cherry");
  await has("1 example");
  await idle();
  tap("Export the classes");
  await waitFor(() => expect(shared).toHaveLength(1));
  await idle();
  tap("Delete cherry");
  await waitFor(() => expect(screen.queryByText("cherry")).toBeNull());
  await idle();
  chosen.files = [offered("classes.json", shared[0]!.text)];
  tap("Import classes");
  await has("cherry");
  expect(screen.getByText("1 example")).toBeTruthy();
});

test("the benchmark is shown and shared as JSON", async () => {
  await start();
  await pickModel({ scheme: "w8a8" });
  open("Benchmark");
  tap("Measure");
  await waitFor(() => expect(screen.getByText("p50, ms")).toBeTruthy());
  await idle();
  tap("Share the result");
  await waitFor(() => expect(shared).toHaveLength(1));
  await idle();
  expect(shared[0]!.name).toBe("lowdino-executorch-w8a8.json");
  const { latency_ms, artifact } = JSON.parse(shared[0]!.text);
  expect(artifact).toBe("executorch-w8a8");
  expect(latency_ms.samples).toHaveLength(100);
  expect(latency_ms.p50).toBeGreaterThanOrEqual(2); // what the stand-in's network takes
});

test("what goes wrong is said with what to do about it", async () => {
  await start();
  const [card] = offeredModel();
  chosen.files = [card!];
  tap("Choose files");
  const alert = await waitFor(() => screen.getByRole("alert"));
  expect(within(alert).getByText("there is no .pte file among them")).toBeTruthy();
  expect(within(alert).getByText(/artifact.json of one export together/)).toBeTruthy();
  tap("Close the message");
  expect(screen.queryByRole("alert")).toBeNull();
  open("Live");
  expect(screen.getByText("Open Model first and choose a model.")).toBeTruthy();
});

test("a camera without RGB pixels is named, and the class stays as it was", async () => {
  await start();
  await pickModel();
  open("Teach");
  await addClass("apple");
  scene.format = "yuv-420-8-bit-full";
  tap(/^Add an example of apple/);
  await has("the camera gives 'yuv-420-8-bit-full' pixels, not RGB");
  expect(screen.getByText("0 examples")).toBeTruthy();
});

test("without permission the app asks for the camera, or leads to the settings", async () => {
  scene.permission = "ask";
  await start();
  await pickModel();
  open("Teach");
  expect(screen.getByRole("button", { name: "Allow the camera" })).toBeTruthy();
  expect(screen.queryByTestId("camera")).toBeNull();
  scene.permission = "denied";
  open("Live");
  expect(screen.getByRole("button", { name: "Open settings to allow the camera" })).toBeTruthy();
});

test("a damaged store is put aside with a word about it, and teaching goes on", async () => {
  await start();
  await pickModel();
  open("Teach");
  await addClass("apple");
  screen.unmount();
  const { File, Paths } = jest.requireActual<typeof import("./fakes/files")>("./fakes/files");
  new File(Paths.document, "classes", `${fakeModel().card.sha256}.json`).write("{");
  await start();
  await has(/not JSON, or was cut short/);
  open("Teach");
  await addClass("leaf");
});

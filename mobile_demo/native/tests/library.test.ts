import { readManifest } from "@lowdino/core";

import * as library from "../src/model/library";
import { problemOf } from "../src/problem";
import { Directory, File, offered, Paths } from "./fakes/files";
import { fakeModel, offeredModel } from "./models";

const failed = async (task: Promise<unknown>) =>
  problemOf(
    await task.then(
      () => "nothing went wrong",
      (e: unknown) => e,
    ),
  );
const kept = () => library.list().then(({ models, broken }) => [models.map((m) => m.scheme), broken]);

test("a model comes in once, is listed, opened and removed", async () => {
  await library.install(offeredModel({ scheme: "w8a8" }));
  await library.install(offeredModel({ scheme: "w8a8" }));
  const manifest = await library.install(offeredModel());
  expect(await kept()).toEqual([["none", "w8a8"], 0]);
  expect(await new File(await library.open(manifest)).text()).toBe(fakeModel().bytes.toString());
  library.remove(manifest);
  expect(await kept()).toEqual([["w8a8"], 0]);
  expect((await failed(library.open(manifest))).what).toMatch(/no longer on the phone/);
});

test.each([
  [["model.pte"], /artifact.json is missing/],
  [["artifact.json"], /no .pte file/],
  [["a.json", "model.pte", "other.pte"], /several models/],
])("picked %j: refused", (names, what) => {
  expect(() => library.pairOf(names.map((name) => ({ name, uri: "" })))).toThrow(what);
});

test.each([
  ["another target", { target: "tflite" }, /for tflite/],
  [
    "another layout",
    { input: { shape: [1, 32, 32, 3], dtype: "float32", layout: "NHWC", range: [0, 1] } },
    /does not take float32 NCHW/,
  ],
  [
    "another range",
    { input: { shape: [1, 3, 32, 32], dtype: "float32", layout: "NCHW", range: [0, 255] } },
    /does not take float32 NCHW/,
  ],
  [
    "integer input",
    { input: { shape: [1, 3, 32, 32], dtype: "int8", layout: "NCHW", range: [0, 1] } },
    /does not take float32 NCHW/,
  ],
  ["another file's sha256", { sha256: "0".repeat(64) }, /is not the file that was exported/],
])("%s is refused, and nothing is kept", async (_name, card, what) => {
  const problem = await failed(library.install(offeredModel({ card })));
  expect(problem.what).toMatch(what);
  expect(problem.how).not.toBe("");
  expect(await kept()).toEqual([[], 0]);
});

test("a card that is no JSON", async () => {
  const [, model] = offeredModel();
  expect((await failed(library.install([offered("artifact.json", "{"), model!]))).what).toMatch(/not JSON/);
});

test("a model damaged on the phone is not handed to the runtime", async () => {
  const manifest = await library.install(offeredModel());
  new File(Paths.document, "models", manifest.sha256, "model.pte").write("x".repeat(manifest.bytes));
  expect((await failed(library.open(manifest))).what).toMatch(/is not the file that was exported/);
});

test("a folder that holds half a model is counted, not listed", async () => {
  const manifest = await library.install(offeredModel());
  new Directory(Paths.document, "models", "half").create();
  new File(Paths.document, "models", manifest.sha256, "artifact.json").write("{}");
  expect(await kept()).toEqual([[], 2]);
});

test("without `npm run sample` the app carries no model, and says how to get one", async () => {
  expect(library.hasSample).toBe(false);
  expect((await failed(library.installSample())).how).toMatch(/npm run sample/);
});

test("the tests' own card is one that core reads", () => {
  expect(readManifest(fakeModel().card).embedDim).toBe(12);
});

/** The TypeScript of react-native-executorch for real, on a stand-in of its C++. */
import { readManifest } from "@lowdino/core";

import { createEmbedder } from "../src/model/embedder";
import { problemOf } from "../src/problem";
import { alive, FORWARD_MS } from "./fakes/executorch";
import { offered } from "./fakes/files";
import { fakeModel } from "./models";

const fileOf = (fake: ReturnType<typeof fakeModel>) => offered("model.pte", fake.bytes).uri;

test("a picture in, its embedding out; nothing stays behind", async () => {
  const fake = fakeModel({ side: 4 });
  const embedder = await createEmbedder(fileOf(fake), readManifest(fake.card));
  const input = new Float32Array(48);
  input.fill(1, 16, 32); // green
  expect(Array.from(await embedder.embed(input))).toEqual([0, 0, 0, 0, 1, 1, 1, 1, 0, 0, 0, 0]);
  expect(await embedder.timedForward()).toBeGreaterThanOrEqual(FORWARD_MS);
  expect(embedder.delegates).toEqual(["XnnpackBackend"]);
  embedder.dispose();
  expect(alive.size).toBe(0);
});

test.each([
  ["another size", { side: 8 }],
  ["another width", { dim: 11 }],
])("a model of %s than its card says is refused, and its memory freed", async (_name, other) => {
  const fake = fakeModel(other);
  const manifest = readManifest(fakeModel({ side: 4 }).card);
  const error = await createEmbedder(fileOf(fake), manifest).catch((e: unknown) => e);
  expect(problemOf(error).how).toMatch(/of one export/);
  expect(alive.size).toBe(0);
});

test("a file that ExecuTorch cannot load: what, how, and the backends of this build", async () => {
  const uri = offered("model.pte", "no program").uri;
  const error = await createEmbedder(uri, readManifest(fakeModel().card)).catch((e: unknown) => e);
  const { what, how } = problemOf(error);
  expect(what).toMatch(/cannot load this file: .*invalid program/);
  expect(how).toMatch(/XnnpackBackend/);
});

import { ClassStore, DemoError, readManifest } from "@lowdino/core";

import * as persist from "../src/store/persist";
import { missing, recognise } from "../src/store/recognise";
import { Directory, File, offered, Paths } from "./fakes/files";
import { fakeModel } from "./models";

const manifest = readManifest(fakeModel({ dim: 2 }).card);
const other = readManifest(fakeModel({ dim: 2, scheme: "w8a8" }).card);

function taught(): ClassStore {
  const store = new ClassStore(manifest.sha256, 2);
  const [cup, key] = [store.addClass("cup"), store.addClass("key")];
  store.addExample(cup.id, Float32Array.of(1, 0), "data:image/png;base64,AAAA");
  store.addExample(key.id, Float32Array.of(0, 1));
  store.addExample(cup.id, Float32Array.of(0.9, 0.1));
  return store;
}

test("what was taught is there again, for this model alone", async () => {
  await persist.saveStore(taught());
  await persist.saveStore(taught()); // over the first
  expect((await persist.loadStore(manifest)).toJSON()).toEqual(taught().toJSON());
  expect((await persist.loadStore(other)).classes).toEqual([]);
  const names = new Directory(Paths.document, "classes").list().map((entry) => entry.name);
  expect(names).toEqual([`${manifest.sha256}.json`]);
});

test("a damaged file is refused, and can be put aside", async () => {
  await persist.saveStore(taught());
  new File(Paths.document, "classes", `${manifest.sha256}.json`).write("{");
  await expect(persist.loadStore(manifest)).rejects.toThrow(DemoError);
  await persist.setAside(manifest);
  expect((await persist.loadStore(manifest)).classes).toEqual([]);
});

test("an export is read back; one of another model is refused", async () => {
  const file = offered("lowdino-classes.json", JSON.stringify(taught()));
  expect((await persist.importStore(file.uri, manifest)).toJSON()).toEqual(taught().toJSON());
  await expect(persist.importStore(file.uri, other)).rejects.toThrow(/another model/);
});

test("the vote, with the names and pictures of its neighbours", () => {
  const { name, confidence, neighbours } = recognise(taught(), Float32Array.of(2, 0));
  expect(name).toBe("cup");
  expect(confidence).toBeGreaterThan(0.99);
  expect(neighbours.map((n) => n.name)).toEqual(["cup", "cup", "key"]);
  expect(neighbours[0]).toMatchObject({ similarity: 1, thumbnail: "data:image/png;base64,AAAA" });
  expect(neighbours[2]!.similarity).toBe(0);
});

test("one thing alone cannot be told from another", () => {
  const store = new ClassStore(manifest.sha256, 2);
  expect(missing(store)).toMatch(/Teach two things/);
  store.addExample(store.addClass("cup").id, Float32Array.of(1, 0));
  store.addClass("key"); // no example yet
  expect(missing(store)).toMatch(/Only “cup”/);
  expect(() => recognise(store, Float32Array.of(1, 0))).toThrow(DemoError);
});

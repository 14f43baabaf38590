import fc from "fast-check";
import { describe, expect, it } from "vitest";

import { ClassStore, classify, DemoError, type StoreJson } from "../src/index";

const MODEL = "ab".repeat(32);
const THUMBNAIL = "data:image/jpeg;base64,/9j/4AAQ";
const DIM = 3;

const embedding = fc
  .array(fc.float({ noNaN: true, noDefaultInfinity: true }), { minLength: DIM, maxLength: DIM })
  .map((values) => Float32Array.from(values));
const taught = fc.uniqueArray(
  fc.record({
    name: fc.string({ unit: "grapheme", maxLength: 12 }).filter((s) => s.trim() !== "" && s.trim().length <= 60),
    examples: fc.array(fc.tuple(embedding, fc.option(fc.constant(THUMBNAIL), { nil: undefined })), { maxLength: 4 }),
  }),
  { selector: ({ name }) => name.trim(), maxLength: 5 },
);

function teach(classes: { name: string; examples: [Float32Array, string | undefined][] }[]): ClassStore {
  const store = new ClassStore(MODEL, DIM);
  for (const { name, examples } of classes) {
    const { id } = store.addClass(name);
    for (const [values, thumbnail] of examples) store.addExample(id, values, thumbnail);
  }
  return store;
}

function sample(): ClassStore {
  return teach([
    { name: "mug", examples: [[Float32Array.of(1, 0, 0), THUMBNAIL], [Float32Array.of(0.9, 0.1, 0), undefined]] },
    { name: "plant", examples: [[Float32Array.of(0, 1, 0), THUMBNAIL]] },
  ]);
}

/** What the person is told, and that it is a DemoError with both lines. */
function told(call: () => unknown): string {
  try {
    call();
  } catch (e) {
    if (!(e instanceof DemoError)) throw e;
    expect(e.message).not.toBe("");
    expect(e.hint).not.toBe("");
    return e.message;
  }
  throw new Error("nothing was refused");
}

describe("teaching", () => {
  it("gives kNN a bank whose labels are the classes in order", () => {
    const store = sample();
    const { data, labels, dim } = store.bank();
    expect([dim, Array.from(labels)]).toEqual([3, [0, 0, 1]]);
    expect(data).toEqual(Float32Array.of(1, 0, 0, Math.fround(0.9), Math.fround(0.1), 0, 0, 1, 0));
    const vote = classify(store.bank(), Float32Array.of(0.1, 1, 0), { classes: store.classes.length });
    expect(store.classes[vote.label]!.name).toBe("plant");
  });

  it("keeps its own copy of an embedding", () => {
    const store = new ClassStore(MODEL, DIM);
    const values = Float32Array.of(1, 2, 3);
    store.addExample(store.addClass("mug").id, values);
    values.fill(9);
    expect(store.bank().data).toEqual(Float32Array.of(1, 2, 3));
  });

  it("renames and removes; labels close up", () => {
    const store = sample();
    const [mug, plant] = store.classes;
    store.renameClass(plant!.id, " fern ");
    store.renameClass(plant!.id, "fern"); // its own name is free
    store.removeExample(mug!.id, mug!.examples[0]!.id);
    expect(store.classes.map((c) => [c.name, c.examples.length])).toEqual([["mug", 1], ["fern", 1]]);
    store.removeClass(mug!.id);
    expect(Array.from(store.bank().labels)).toEqual([0]);
    expect(store.bank().data).toEqual(Float32Array.of(0, 1, 0));
  });

  it("never changes a list that was handed out", () => {
    const store = sample();
    const before = store.classes;
    const examples = before[0]!.examples;
    store.addExample(before[0]!.id, Float32Array.of(1, 1, 1));
    store.addClass("shoe");
    expect([before.length, examples.length]).toEqual([2, 2]);
    expect(store.classes).not.toBe(before);
  });

  it("says what cannot be", () => {
    const store = sample();
    const mug = store.classes[0]!.id;
    expect(told(() => store.addClass("  "))).toContain("1 to 60 letters");
    expect(told(() => store.addClass("x".repeat(61)))).toContain("not 61");
    expect(told(() => store.addClass(" mug "))).toContain("a class 'mug' already");
    expect(told(() => store.renameClass(mug, "plant"))).toContain("already");
    expect(told(() => store.renameClass("c99", "x"))).toContain("no such class");
    expect(told(() => store.removeClass("c99"))).toContain("no such class");
    expect(told(() => store.removeExample(mug, "e99"))).toContain("no such example");
    expect(told(() => store.addExample("c99", new Float32Array(3)))).toContain("no such class");
    expect(told(() => store.addExample(mug, new Float32Array(4)))).toContain("4 wide, the store's are 3");
    expect(told(() => store.addExample(mug, Float32Array.of(1, NaN, 0)))).toContain("not finite");
    for (const thumbnail of ["javascript:alert(1)", "https://example.com/x.png", "data:text/html;base64,AAAA", ""]) {
      expect(told(() => store.addExample(mug, new Float32Array(3), thumbnail))).toContain("thumbnail");
    }
    expect(store.toJSON()).toEqual(sample().toJSON());
  });
});

describe("the JSON", () => {
  it("comes back as it went, whatever was taught", () => {
    fc.assert(
      fc.property(taught, (classes) => {
        const store = teach(classes);
        const text = JSON.stringify(store);
        for (const json of [text, JSON.parse(text), store.toJSON()]) {
          const back = ClassStore.fromJSON(json, MODEL, DIM);
          expect(back.classes).toEqual(store.classes);
          expect(back.bank()).toEqual(store.bank());
          expect(JSON.stringify(back)).toBe(text);
        }
      }),
    );
  });

  it("is stable: format, version, base64 of float32", () => {
    const store = teach([{ name: "mug", examples: [[Float32Array.of(1, -2, 0.5), THUMBNAIL]] }]);
    expect(JSON.parse(JSON.stringify(store))).toEqual({
      format: "lowdino-classes",
      version: 1,
      model_sha256: MODEL,
      embed_dim: 3,
      classes: [
        { id: "c1", name: "mug", examples: [{ id: "e2", embedding: "AACAPwAAAMAAAAA/", thumbnail: THUMBNAIL }] },
      ],
    });
  });

  it("gives new ids after reading", () => {
    const back = ClassStore.fromJSON(sample().toJSON(), MODEL);
    const ids = [...back.classes.flatMap((c) => [c.id, ...c.examples.map((e) => e.id)])];
    const added = back.addClass("shoe");
    ids.push(added.id, back.addExample(added.id, new Float32Array(3)).id);
    expect(new Set(ids.map((id) => id.slice(1))).size).toBe(ids.length);
  });

  it("is refused where it belongs to another model or another width", () => {
    const json = sample().toJSON();
    expect(told(() => ClassStore.fromJSON(json, "cd".repeat(32)))).toContain("another model");
    expect(told(() => ClassStore.fromJSON(json, MODEL, 4))).toContain("3 wide, the model's 4");
    const wider = { ...json, embed_dim: 4 };
    expect(told(() => ClassStore.fromJSON(wider, MODEL))).toContain("classes[0].examples[0].embedding");
  });

  it("is refused where it is something else", () => {
    expect(told(() => ClassStore.fromJSON("{", MODEL))).toContain("not JSON");
    expect(told(() => ClassStore.fromJSON(JSON.stringify(sample()).slice(0, -9), MODEL))).toContain("not JSON");
    for (const json of [null, 3, [], "[]", "null", {}]) {
      expect(told(() => ClassStore.fromJSON(json, MODEL))).toMatch(/damaged at the file|no file of taught classes/);
    }
    expect(told(() => ClassStore.fromJSON({ ...sample().toJSON(), version: 2 }, MODEL))).toContain("version 2");
  });

  const paths = fieldsOf(JSON.parse(JSON.stringify(sample())));
  it.each(paths.map((path) => [path.join("."), path] as const))("is refused where %s is of a wrong type", (_, path) => {
    for (const value of [undefined, null, true, 0.5, NaN, -1, "", "?", [3], [null], { a: 1 }]) {
      if (value === undefined && path.at(-1) === "thumbnail") continue; // may be left out
      const json = JSON.parse(JSON.stringify(sample())) as StoreJson;
      const parent = path.slice(0, -1).reduce<any>((at, key) => at[key], json);
      parent[path.at(-1)!] = value;
      if (path.at(-1) === "name" && value === "?") continue; // a name like any other
      told(() => ClassStore.fromJSON(json, MODEL, DIM));
    }
  });

  const broken: [string, (json: StoreJson) => void][] = [
    ["truncated base64", (j) => (j.classes[1]!.examples[0]!.embedding = "AAAAAAAAgD8AAAA")],
    ["too few numbers", (j) => (j.classes[1]!.examples[0]!.embedding = "AAAAAAAAgD8=")],
    ["NaN", (j) => (j.classes[1]!.examples[0]!.embedding = "AADAfwAAgD8AAAAA")],
    ["infinity", (j) => (j.classes[1]!.examples[0]!.embedding = "AACAfwAAgD8AAAAA")],
    ["two classes of one id", (j) => (j.classes[1]!.id = j.classes[0]!.id)],
    ["two examples of one id", (j) => (j.classes[1]!.examples[0]!.id = j.classes[0]!.examples[0]!.id)],
    ["an id of the wrong kind", (j) => (j.classes[1]!.id = "e77")],
    ["an id that is none", (j) => (j.classes[1]!.id = "__proto__")],
    ["two classes of one name", (j) => (j.classes[1]!.name = "mug")],
    ["a name with blanks around", (j) => (j.classes[1]!.name = " plant")],
    ["a thumbnail from elsewhere", (j) => (j.classes[1]!.examples[0]!.thumbnail = "https://example.com/a.png")],
    ["a thumbnail with markup", (j) => (j.classes[1]!.examples[0]!.thumbnail = 'data:image/png;base64,AA"><b>')],
    ["a thumbnail beyond all size", (j) => (j.classes[1]!.examples[0]!.thumbnail = THUMBNAIL + "A".repeat(300_000))],
  ];
  it.each(broken)("is refused with %s", (_, damage) => {
    const json = sample().toJSON();
    damage(json);
    told(() => ClassStore.fromJSON(json, MODEL, DIM));
  });

  it("answers any change of any field with a store or a DemoError", () => {
    fc.assert(
      fc.property(fc.constantFrom(...paths), fc.jsonValue(), (path, value) => {
        const json = JSON.parse(JSON.stringify(sample())) as StoreJson;
        path.slice(0, -1).reduce<any>((at, key) => at[key], json)[path.at(-1)!] = value;
        try {
          const bank = ClassStore.fromJSON(json, MODEL).bank();
          expect(bank.data.length).toBe(bank.labels.length * bank.dim);
          expect(bank.data.every(Number.isFinite)).toBe(true);
        } catch (e) {
          expect(e).toBeInstanceOf(DemoError);
        }
      }),
      { numRuns: 400 },
    );
  });
});

/** Paths of all fields of a JSON value. */
function fieldsOf(value: unknown, path: string[] = []): string[][] {
  if (typeof value !== "object" || value === null) return [path];
  const below = Object.entries(value).flatMap(([key, child]) => fieldsOf(child, [...path, key]));
  return path.length ? [path, ...below] : below;
}

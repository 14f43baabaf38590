/** What a person has taught: classes and their examples, of one model. Kept as JSON, checked whole when read back. */
import { floatsFromBase64, floatsToBase64 } from "./bytes";
import { isFinite } from "./embeddings";
import { DemoError } from "./errors";
import type { Bank } from "./knn";

export interface Example {
  readonly id: string;
  readonly embedding: Float32Array;
  readonly thumbnail?: string; // data URL
}

export interface TaughtClass {
  readonly id: string;
  readonly name: string;
  readonly examples: readonly Example[];
}

/** The JSON; embeddings are base64 of little-endian float32. */
export interface StoreJson {
  format: typeof FORMAT;
  version: typeof VERSION;
  model_sha256: string;
  embed_dim: number;
  classes: { id: string; name: string; examples: { id: string; embedding: string; thumbnail?: string }[] }[];
}

const FORMAT = "lowdino-classes";
const VERSION = 1;
const MAX_NAME = 60; // letters
const MAX_THUMBNAIL = 200_000; // letters; a thumbnail has a few thousand
const THUMBNAIL = /^data:image\/(?:jpeg|png|webp);base64,[A-Za-z0-9+/]+={0,2}$/; // nothing that runs or is fetched
const ID = /^[ce][1-9][0-9]{0,11}$/;
const EXPORT_AGAIN = "choose a file that this app exported, or teach the classes again";

type MutableClass = { id: string; name: string; examples: Example[] };
type Fields = Record<string, unknown>;

export class ClassStore {
  readonly modelSha256: string;
  readonly embedDim: number;
  #classes: MutableClass[] = [];
  #last = 0; // number of the youngest id

  /** An empty store for the model with this sha256, whose embeddings are `embedDim` wide. */
  constructor(modelSha256: string, embedDim: number) {
    if (!(Number.isInteger(embedDim) && embedDim >= 1)) throw new RangeError(`embeddings ${embedDim} wide`);
    this.modelSha256 = modelSha256;
    this.embedDim = embedDim;
  }

  /** In the order they were added; the index here is the label in `bank()`. */
  get classes(): readonly TaughtClass[] {
    return this.#classes;
  }

  addClass(name: string): TaughtClass {
    const added: MutableClass = { id: this.#newId("c"), name: this.#freeName(name), examples: [] };
    this.#classes = [...this.#classes, added];
    return added;
  }

  renameClass(classId: string, name: string): void {
    const old = this.#find(classId);
    this.#replace({ ...old, name: this.#freeName(name, classId) });
  }

  removeClass(classId: string): void {
    this.#find(classId);
    this.#classes = this.#classes.filter((c) => c.id !== classId);
  }

  addExample(classId: string, embedding: Float32Array, thumbnail?: string): Example {
    const taught = this.#find(classId);
    const hint = "embed it again with the model that this store belongs to";
    if (embedding.length !== this.embedDim) {
      throw new DemoError(`the embedding is ${embedding.length} wide, the store's are ${this.embedDim}`, hint);
    }
    if (!isFinite(embedding, 0, this.embedDim)) throw new DemoError("the embedding is not finite", hint);
    if (thumbnail !== undefined && !isThumbnail(thumbnail)) {
      throw new DemoError("the thumbnail is no small JPEG, PNG or WebP data URL", "draw it smaller, or leave it out");
    }
    const added = exampleOf(this.#newId("e"), embedding.slice(), thumbnail);
    this.#replace({ ...taught, examples: [...taught.examples, added] });
    return added;
  }

  removeExample(classId: string, exampleId: string): void {
    const taught = this.#find(classId);
    const left = taught.examples.filter((e) => e.id !== exampleId);
    if (left.length === taught.examples.length) throw gone("example");
    this.#replace({ ...taught, examples: left });
  }

  /** All examples for `classify`; a label is the index of the class, rows in the order of `classes`. */
  bank(): Bank {
    const rows = this.#classes.flatMap((c, label) => c.examples.map(({ embedding }) => ({ embedding, label })));
    const data = new Float32Array(rows.length * this.embedDim);
    rows.forEach(({ embedding }, i) => data.set(embedding, i * this.embedDim));
    return { data, labels: Int32Array.from(rows, (row) => row.label), dim: this.embedDim };
  }

  toJSON(): StoreJson {
    return {
      format: FORMAT,
      version: VERSION,
      model_sha256: this.modelSha256,
      embed_dim: this.embedDim,
      classes: this.#classes.map(({ id, name, examples }) => ({
        id,
        name,
        examples: examples.map((e) => ({ ...e, embedding: floatsToBase64(e.embedding) })),
      })),
    };
  }

  /**
   * The store that `toJSON` gave, as text or parsed. Throws DemoError, and then nothing of it is taken.
   *
   * @param modelSha256 of the model in use: what another model has embedded means nothing to it.
   * @param embedDim its width, where known.
   */
  static fromJSON(json: unknown, modelSha256: string, embedDim?: number): ClassStore {
    const store = fieldsOf(typeof json === "string" ? parsed(json) : json, "the file");
    if (store["format"] !== FORMAT) throw new DemoError("this is no file of taught classes", EXPORT_AGAIN);
    if (store["version"] !== VERSION) {
      const said = JSON.stringify(store["version"]);
      throw new DemoError(`the file has format version ${said}, this app reads ${VERSION}`, "update the app");
    }
    if (store["model_sha256"] !== modelSha256) {
      throw new DemoError("these classes were taught to another model", "choose that model first, or teach them again");
    }
    const dim = store["embed_dim"];
    if (typeof dim !== "number" || !Number.isSafeInteger(dim) || dim < 1) throw damaged("embed_dim");
    if (embedDim !== undefined && dim !== embedDim) {
      throw new DemoError(`the file's embeddings are ${dim} wide, the model's ${embedDim}`, EXPORT_AGAIN);
    }
    const read = new ClassStore(modelSha256, dim);
    read.#take(listOf(store["classes"], "classes"));
    return read;
  }

  #take(classes: unknown[]): void {
    const ids = new Set<string>();
    classes.forEach((value, i) => {
      const where = `classes[${i}]`;
      const card = fieldsOf(value, where);
      const name = card["name"];
      if (typeof name !== "string" || name !== name.trim()) throw damaged(`${where}.name`);
      const examples = listOf(card["examples"], `${where}.examples`).map((e, n) =>
        exampleFrom(e, this.embedDim, ids, `${where}.examples[${n}]`),
      );
      this.#classes.push({ id: newId(card["id"], "c", ids, where), name: this.#freeName(name), examples });
    });
    for (const id of ids) this.#last = Math.max(this.#last, Number(id.slice(1)));
  }

  #find(classId: string): MutableClass {
    const found = this.#classes.find((c) => c.id === classId);
    if (!found) throw gone("class");
    return found;
  }

  /** Objects and lists are replaced, never changed: a view may compare them by identity. */
  #replace(changed: MutableClass): void {
    this.#classes = this.#classes.map((c) => (c.id === changed.id ? changed : c));
  }

  #freeName(name: string, except?: string): string {
    const short = name.trim();
    if (short === "" || short.length > MAX_NAME) {
      throw new DemoError(`a class's name has 1 to ${MAX_NAME} letters, not ${short.length}`, "give it another name");
    }
    if (this.#classes.some((c) => c.name === short && c.id !== except)) {
      throw new DemoError(`there is a class '${short}' already`, "add the example to it, or choose another name");
    }
    return short;
  }

  #newId(kind: "c" | "e"): string {
    return `${kind}${++this.#last}`;
  }
}

function exampleFrom(value: unknown, dim: number, ids: Set<string>, where: string): Example {
  const card = fieldsOf(value, where);
  const { embedding, thumbnail } = card;
  const values = typeof embedding === "string" ? floatsFromBase64(embedding) : null;
  if (!values || values.length !== dim || !isFinite(values, 0, dim)) throw damaged(`${where}.embedding`);
  if (thumbnail !== undefined && !isThumbnail(thumbnail)) throw damaged(`${where}.thumbnail`);
  return exampleOf(newId(card["id"], "e", ids, where), values, thumbnail);
}

function exampleOf(id: string, embedding: Float32Array, thumbnail: string | undefined): Example {
  return thumbnail === undefined ? { id, embedding } : { id, embedding, thumbnail };
}

function newId(value: unknown, kind: "c" | "e", ids: Set<string>, where: string): string {
  if (typeof value !== "string" || !ID.test(value) || value[0] !== kind || ids.has(value)) throw damaged(`${where}.id`);
  ids.add(value);
  return value;
}

function isThumbnail(value: unknown): value is string {
  return typeof value === "string" && value.length <= MAX_THUMBNAIL && THUMBNAIL.test(value);
}

function parsed(text: string): unknown {
  try {
    return JSON.parse(text);
  } catch {
    throw new DemoError("the file is not JSON, or was cut short", EXPORT_AGAIN);
  }
}

function fieldsOf(value: unknown, where: string): Fields {
  if (typeof value !== "object" || value === null || Array.isArray(value)) throw damaged(where);
  return value as Fields;
}

function listOf(value: unknown, where: string): unknown[] {
  if (!Array.isArray(value)) throw damaged(where);
  return value;
}

function damaged(where: string): DemoError {
  return new DemoError(`the file of taught classes is damaged at ${where}`, EXPORT_AGAIN);
}

function gone(what: string): DemoError {
  return new DemoError(`there is no such ${what} any more`, "reload the page");
}

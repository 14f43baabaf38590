// The models a person may choose from: those the server offers, and those this device keeps (once used, or picked).
import { DemoError, type Info, type Manifest, type ModelInfo, checkFile, readManifest } from "@lowdino/core";
import { getBytes, getJson } from "../api";
import type { Db } from "../db";

interface Kept {
  sha256: string;
  name: string;
  card: unknown;
  bytes: ArrayBuffer;
  picked: boolean;
  used: number;
}

export interface Choice {
  sha256: string;
  name: string;
  manifest: Manifest;
  /** On this device, so that it works offline. */
  kept: boolean;
  picked: boolean;
  served: ModelInfo | null;
}

export interface Opened {
  choice: Choice;
  bytes: ArrayBuffer;
}

/** Served models beyond this many leave the device again, the longest unused first. Picked ones stay. */
const KEEP_SERVED = 6;
const ANSWER_MS = 4000;

export class Library {
  info: Info | null = null;
  choices: Choice[] = [];

  constructor(private readonly db: Db) {}

  /** Asks the server; without an answer only what is kept is on offer. */
  async refresh(): Promise<void> {
    this.info = await getJson<Info>("api/info", ANSWER_MS).catch(() => null);
    const kept = await this.db.all<Kept>("models");
    const choices = new Map<string, Choice>();
    for (const model of this.info?.models ?? []) {
      const manifest = tryManifest(model.card);
      if (manifest === null) continue;
      const { sha256 } = manifest;
      const here = kept.some((k) => k.sha256 === sha256);
      choices.set(sha256, { sha256, name: model.name, manifest, kept: here, picked: false, served: model });
    }
    for (const k of kept) {
      const manifest = tryManifest(k.card);
      if (manifest === null || choices.has(k.sha256) || (this.info !== null && !k.picked)) continue;
      choices.set(k.sha256, { sha256: k.sha256, name: k.name, manifest, kept: true, picked: k.picked, served: null });
    }
    this.choices = [...choices.values()];
  }

  /** The one chosen last, if it is on offer; else int8, which is the smallest; else the first. */
  async preferred(): Promise<Choice | null> {
    const last = await this.db.get<string>("prefs", "model");
    const scheme = (name: string) => this.choices.find((c) => c.manifest.scheme === name);
    return this.choices.find((c) => c.sha256 === last) ?? scheme("w8a8") ?? scheme("none") ?? this.choices[0] ?? null;
  }

  /** The bytes of a model, checked against its card, kept from now on. */
  async open(choice: Choice): Promise<Opened> {
    const { sha256, name, manifest, picked } = choice;
    let bytes = (await this.db.get<Kept>("models", sha256))?.bytes;
    if (bytes === undefined) {
      if (choice.served === null) throw new DemoError(`'${name}' is not on this device`, "pick its files again");
      bytes = await getBytes(choice.served.url);
    }
    await checkFile(manifest, bytes);
    await this.keep({ sha256, name, card: manifest.raw, bytes, picked, used: Date.now() });
    choice.kept = true;
    return { choice, bytes };
  }

  /** Model file and artifact.json as a person picked or dropped them, in any order. */
  async add(files: File[]): Promise<Choice> {
    const model = files.find((f) => f.name.toLowerCase().endsWith(".tflite"));
    const card = files.find((f) => f.name.toLowerCase().endsWith(".json"));
    if (model === undefined || card === undefined)
      throw new DemoError(
        model === undefined
          ? "there is no .tflite among these files"
          : `the artifact.json of '${model.name}' is missing`,
        "pick both files of one export: the .tflite and the artifact.json beside it",
      );
    const manifest = await cardOf(card);
    const bytes = await model.arrayBuffer();
    await checkFile(manifest, bytes);
    const { sha256 } = manifest;
    const name = manifest.student === undefined ? model.name : `${manifest.student}, ${manifest.scheme}`;
    await this.keep({ sha256, name, card: manifest.raw, bytes, picked: true, used: Date.now() });
    const choice: Choice = { sha256, name, manifest, kept: true, picked: true, served: null };
    const known = this.choices.find((c) => c.sha256 === sha256);
    if (known !== undefined) return Object.assign(known, { kept: true });
    this.choices.push(choice);
    return choice;
  }

  async forget(choice: Choice): Promise<void> {
    await this.db.delete("models", choice.sha256);
    choice.kept = false;
    if (choice.served === null) this.choices = this.choices.filter((c) => c !== choice);
  }

  async remember(choice: Choice): Promise<void> {
    await this.db.put("prefs", "model", choice.sha256);
  }

  private async keep(model: Kept): Promise<void> {
    try {
      await this.db.put("models", model.sha256, model);
    } catch {
      return; // a full disk: it works now, and not offline
    }
    const served = (await this.db.all<Kept>("models")).filter((k) => !k.picked).sort((a, b) => b.used - a.used);
    for (const old of served.slice(KEEP_SERVED)) await this.db.delete("models", old.sha256);
  }
}

async function cardOf(file: File): Promise<Manifest> {
  let json: unknown;
  try {
    json = JSON.parse(await file.text());
  } catch {
    throw new DemoError(`'${file.name}' is no JSON`, "pick the artifact.json that lies beside the model");
  }
  const manifest = readManifest(json);
  if (manifest.target !== "tflite")
    throw new DemoError(`this card is of a ${manifest.target} model`, "export with `--target tflite` for the web app");
  return manifest;
}

/** A card that this app cannot read hides one model, not all. */
function tryManifest(card: unknown): Manifest | null {
  try {
    return readManifest(card);
  } catch (e) {
    console.warn("a model is left out:", e);
    return null;
  }
}

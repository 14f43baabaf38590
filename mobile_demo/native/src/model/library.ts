/** The models on this phone: documents/models/SHA256/{artifact.json, model.pte}, checked when taken and when opened. */
import { checkFile, DemoError, readManifest, type Manifest } from "@lowdino/core";
import { sample } from "@lowdino/sample";
import { Asset } from "expo-asset";
import * as Crypto from "expo-crypto";
import { Directory, File, Paths } from "expo-file-system";

export interface Picked {
  name: string;
  uri: string;
}

const CARD = "artifact.json";
const MODEL = "model.pte";
const BOTH = "choose the .pte and the artifact.json of one export together";

export const hasSample = sample !== null;

/** Of the files a person picked: the card and the model. Throws DemoError. */
export function pairOf(files: readonly Picked[]): { card: Picked; model: Picked } {
  const card = files.filter((file) => /\.json$/i.test(file.name));
  const model = files.filter((file) => /\.pte$/i.test(file.name));
  if (model.length === 0) throw new DemoError("there is no .pte file among them", BOTH);
  if (card.length === 0) throw new DemoError("the artifact.json is missing", BOTH);
  if (model.length > 1 || card.length > 1) throw new DemoError("these are files of several models", BOTH);
  return { card: card[0]!, model: model[0]! };
}

/** The card of a model that this app can run. Throws DemoError. */
export function readCard(text: string): Manifest {
  let json: unknown;
  try {
    json = JSON.parse(text);
  } catch {
    throw new DemoError("the artifact.json is not JSON, or was cut short", BOTH);
  }
  const manifest = readManifest(json);
  const { target, input, output } = manifest;
  if (target !== "executorch") throw new DemoError(`this model is for ${target}`, "export the executorch target");
  if (
    input.layout !== "NCHW" ||
    input.dtype !== "float32" ||
    output.dtype !== "float32" ||
    input.range.join() !== "0,1"
  ) {
    throw new DemoError(
      "this model does not take float32 NCHW pixels in [0, 1]",
      "export it again with `lowdino export`",
    );
  }
  return manifest;
}

/** Copies a model into the library; the same model twice is one. */
export async function install(files: readonly Picked[]): Promise<Manifest> {
  const { card, model } = pairOf(files);
  return keep(await new File(card.uri).text(), new File(model.uri));
}

/** The model that was built into the app by `npm run sample`. */
export async function installSample(): Promise<Manifest> {
  if (!sample) throw new DemoError("this build carries no model", "choose one, or build with `npm run sample`");
  const asset = await Asset.fromModule(sample.file).downloadAsync();
  return keep(JSON.stringify(sample.card), new File(asset.localUri ?? asset.uri));
}

/** The models that are whole, and how many are not. */
export async function list(): Promise<{ models: Manifest[]; broken: number }> {
  const models: Manifest[] = [];
  let broken = 0;
  for (const folder of root().list()) {
    if (!(folder instanceof Directory)) continue; // whatever else lies here is not ours
    try {
      models.push(await readFolder(folder));
    } catch (error) {
      if (!(error instanceof DemoError)) throw error;
      broken++;
    }
  }
  models.sort((a, b) => a.scheme.localeCompare(b.scheme) || a.sha256.localeCompare(b.sha256));
  return { models, broken };
}

async function readFolder(folder: Directory): Promise<Manifest> {
  const card = new File(folder, CARD);
  if (!card.exists || !new File(folder, MODEL).exists) throw new DemoError("files of the model are missing", BOTH);
  return readCard(await card.text());
}

/** Where the checked model file lies. Throws DemoError where it is damaged. */
export async function open(manifest: Manifest): Promise<string> {
  const file = new File(root(), manifest.sha256, MODEL);
  if (!file.exists) throw new DemoError("this model is no longer on the phone", "choose its files again");
  await check(manifest, file);
  return file.uri;
}

export function remove(manifest: Manifest): void {
  const folder = new Directory(root(), manifest.sha256);
  if (folder.exists) folder.delete();
}

async function keep(card: string, model: File): Promise<Manifest> {
  const manifest = readCard(card);
  await check(manifest, model);
  const folder = new Directory(root(), manifest.sha256);
  folder.create({ intermediates: true, idempotent: true });
  await model.copy(new File(folder, MODEL), { overwrite: true });
  new File(folder, CARD).write(card); // last: a folder without a card is no model
  return manifest;
}

async function check(manifest: Manifest, file: File): Promise<void> {
  // The system's own SHA-256: by hand it would take seconds.
  await checkFile(manifest, await file.arrayBuffer(), (bytes) =>
    Crypto.digest(Crypto.CryptoDigestAlgorithm.SHA256, bytes),
  );
}

function root(): Directory {
  const folder = new Directory(Paths.document, "models");
  folder.create({ intermediates: true, idempotent: true });
  return folder;
}

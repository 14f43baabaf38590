/** artifact.json, checked field by field as lowdino_edge/artifact.py does; and the model file against its sha256. */
import { sha256Hex, type Digest } from "./sha256";
import { DemoError } from "./errors";
import { roundHalfEven } from "./numbers";
import type { Filter } from "./resize";

/** How a picture becomes network input: the shorter side to `resize`, then a square of `imageSize` from the centre. */
export interface Preprocess {
  imageSize: number;
  cropRatio: number;
  resize: number; // imageSize / cropRatio, rounded
  interpolation: Filter;
}

export interface Manifest {
  target: string;
  scheme: string;
  file: string;
  sha256: string;
  bytes: number;
  embedDim: number;
  input: { shape: number[]; dtype: string; layout: "NHWC" | "NCHW"; range: [number, number] };
  output: { shape: number[]; dtype: string };
  preprocess: Preprocess;
  student?: string;
  raw: unknown; // the whole card
}

const AGAIN = "take the artifact.json that lies beside the model, or make both again with `lowdino export`";
const MAX_SIDE = 4096; // pixels; more is no network for a phone, and would fill the memory

type Fields = Record<string, unknown>;

/** The card as the app needs it; `json` is parsed JSON. Throws DemoError. */
export function readManifest(json: unknown): Manifest {
  if (!isFields(json)) throw new DemoError("this is not an artifact card", AGAIN);
  const manifest: Manifest = {
    target: text(json, "target"),
    scheme: text(json, "scheme"),
    file: fileName(json),
    sha256: text(json, "sha256").toLowerCase(),
    bytes: whole(json, "bytes", 0),
    embedDim: whole(json, "embed_dim", 1),
    input: input(fields(json, "input")),
    output: output(fields(json, "output")),
    preprocess: preprocess(fields(json, "preprocess")),
    raw: json,
  };
  if (!/^[0-9a-f]{64}$/.test(manifest.sha256)) throw invalid("sha256");
  if (typeof json["student"] === "string") manifest.student = json["student"];
  agree(manifest);
  return manifest;
}

/**
 * Compares the model file with the card; throws DemoError where it is another one.
 *
 * @param digest SHA-256, where the caller has a fast one; otherwise the platform's own, or the one in sha256.ts.
 */
export async function checkFile(manifest: Manifest, bytes: ArrayBuffer, digest?: Digest): Promise<void> {
  const what = `'${manifest.file}' is not the file that was exported: `;
  const how = "take the model file and the artifact.json of one export";
  if (bytes.byteLength !== manifest.bytes) {
    throw new DemoError(`${what}${bytes.byteLength} bytes, artifact.json says ${manifest.bytes}`, how);
  }
  const found = await sha256Hex(bytes, digest);
  if (found !== manifest.sha256) {
    const said = manifest.sha256.slice(0, 12);
    throw new DemoError(`${what}sha256 ${found.slice(0, 12)}..., artifact.json says ${said}...`, how);
  }
}

function input(card: Fields): Manifest["input"] {
  const layout = card["layout"];
  if (layout !== "NHWC" && layout !== "NCHW") throw invalid("input.layout");
  const range = card["range"];
  if (!Array.isArray(range) || range.length !== 2 || !range.every(Number.isFinite)) throw invalid("input.range");
  return {
    shape: shape(card, "input", 4),
    dtype: text(card, "dtype", "input."),
    layout,
    range: [range[0], range[1]],
  };
}

function output(card: Fields): Manifest["output"] {
  return { shape: shape(card, "output", 2), dtype: text(card, "dtype", "output.") };
}

function preprocess(card: Fields): Preprocess {
  const imageSize = whole(card, "image_size", 1, "preprocess.");
  const cropRatio = card["crop_ratio"];
  const interpolation = card["interpolation"];
  if (interpolation !== "bilinear" && interpolation !== "bicubic") throw invalid("preprocess.interpolation");
  if (typeof cropRatio !== "number" || !(cropRatio > 0)) throw invalid("preprocess.crop_ratio");
  const resize = roundHalfEven(imageSize / cropRatio);
  if (imageSize > MAX_SIDE) throw invalid("preprocess.image_size");
  if (!(resize >= 1 && resize <= MAX_SIDE)) throw invalid("preprocess.crop_ratio");
  return { imageSize, cropRatio, resize, interpolation };
}

/** What one field says of another: a card that contradicts itself would fail later, and far from here. */
function agree({ input, output, preprocess: { imageSize }, embedDim }: Manifest): void {
  const want = input.layout === "NHWC" ? [1, imageSize, imageSize, 3] : [1, 3, imageSize, imageSize];
  if (input.shape.join() !== want.join()) throw invalid("input.shape");
  if (output.shape.join() !== [1, embedDim].join()) throw invalid("output.shape");
}

/** A plain file name: whatever reads the card must not be led out of its folder. */
function fileName(card: Fields): string {
  const file = text(card, "file");
  if (/[/\\]/.test(file) || ["", ".", ".."].includes(file)) {
    throw new DemoError(`the card names a file outside its directory: '${file}'`, AGAIN);
  }
  return file;
}

function shape(card: Fields, key: string, length: number): number[] {
  const sides = card["shape"];
  const sound = (x: unknown) => Number.isSafeInteger(x) && (x as number) >= 1;
  if (!Array.isArray(sides) || sides.length !== length || !sides.every(sound)) throw invalid(`${key}.shape`);
  return [...sides] as number[];
}

function fields(card: Fields, key: string): Fields {
  const value = card[key];
  if (!isFields(value)) throw invalid(key);
  return value;
}

function text(card: Fields, key: string, path = ""): string {
  const value = card[key];
  if (typeof value !== "string") throw invalid(path + key);
  return value;
}

function whole(card: Fields, key: string, least: number, path = ""): number {
  const value = card[key];
  if (typeof value !== "number" || !Number.isSafeInteger(value) || value < least) throw invalid(path + key);
  return value;
}

function isFields(value: unknown): value is Fields {
  return typeof value === "object" && value !== null && !Array.isArray(value);
}

function invalid(key: string): DemoError {
  return new DemoError(`the card has no valid '${key}'`, AGAIN);
}

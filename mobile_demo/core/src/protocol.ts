/** What `lowdino serve RUN` answers and takes. Python writes it; keys as on the wire. */
import { utf8 } from "./bytes";
import type { Summary } from "./latency";

export type Backend = "wasm" | "webgpu";

/** GET /api/info */
export interface Info {
  run: string;
  version: string;
  lan: boolean;
  models: ModelInfo[];
}

export interface ModelInfo {
  name: string; // "tflite-w8a8"
  target: string;
  scheme: string;
  bytes: number;
  card: unknown; // artifact.json, for `readManifest`
  url: string;
  golden_url: string;
  knn_top1: number | null;
}

/** GET /models/NAME/golden.json: base64 of little-endian float32. */
export interface Golden {
  n: number;
  size: number;
  embed_dim: number;
  input: string; // (n, 3, size, size), RGB in [0, 1]
  embedding: string; // (n, embed_dim), what this file gives on the host
  reference: string; // (n, embed_dim), what PyTorch gives
}

/** GET /api/job: the benchmark to run. n_bank = n_query = 0 means latency alone. */
export interface Job {
  id: string;
  models: string[];
  runs: number;
  warmup: number;
  burst: number;
  image_size: number;
  n_bank: number;
  n_query: number;
  bank_url: string; // uint8 (n_bank, image_size, image_size, 3), RGB
  query_url: string;
  backends: Backend[];
  auto: boolean;
}

export interface DeviceInfo {
  user_agent: string;
  platform: string;
  model: string | null;
  cores: number | null;
  memory_gb: number | null;
  gpu: string | null;
}

/** The JSON at the head of POST /api/results; `encodeResult` makes the body. */
export interface ResultHeader {
  job: string;
  model: string;
  backend: Backend;
  samples_ms: number[];
  warmup: number;
  load_ms: number;
  threads: number;
  runtime: string; // "@litertjs/core 2.5.3"
  device: DeviceInfo;
  n_bank: number;
  n_query: number;
  embed_dim: number;
  last: boolean;
}

/** The answer to POST /api/results: the benchmark's row, with more keys than the app reads. */
export interface ResultReply {
  row: {
    artifact: string;
    target: string;
    scheme: string;
    device: unknown;
    bytes: number;
    latency_ms: Summary;
    knn_top1: number | null;
    knn_top1_fp32: number | null;
    neighbour_agreement: number | null;
    threads: number;
    [key: string]: unknown;
  };
}

/** POST /api/failures */
export interface Failure {
  job: string;
  model: string;
  backend: Backend;
  message: string;
  last: boolean;
}

/** The body of every 4xx answer. */
export interface ErrorReply {
  error: string;
  hint: string;
}

/** The body of POST /api/results: uint32 length of the JSON, the JSON, both sets of embeddings; little-endian. */
export function encodeResult(header: ResultHeader, bank: Float32Array, query: Float32Array): Uint8Array<ArrayBuffer> {
  const { n_bank, n_query, embed_dim } = header;
  if (bank.length !== n_bank * embed_dim || query.length !== n_query * embed_dim) {
    throw new RangeError(
      `${bank.length} and ${query.length} numbers are not ${n_bank} and ${n_query} embeddings of ${embed_dim}`,
    );
  }
  const json = utf8(JSON.stringify(header));
  const body = new Uint8Array(4 + json.length + 4 * (bank.length + query.length));
  const view = new DataView(body.buffer);
  view.setUint32(0, json.length, true);
  body.set(json, 4);
  let at = 4 + json.length;
  for (const values of [bank, query]) {
    for (const value of values) {
      view.setFloat32(at, value, true);
      at += 4;
    }
  }
  return body;
}

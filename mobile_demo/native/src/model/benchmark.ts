/** Latency of the network on this phone, by core's rules: warm-up until stable, raw samples kept, throttling named. */
import { BURST, interleave, summary, warmUp, type DeviceInfo, type Manifest, type Summary } from "@lowdino/core";

import { RUNTIME, type Embedder } from "./embedder";

export const WARMUP = 10;
export const RUNS = 100;

/** `latency_ms` is what lowdino_edge/bench writes; the other keys as in the rows of `lowdino benchmark`. */
export interface BenchmarkResult {
  artifact: string;
  target: string;
  scheme: string;
  sha256: string;
  bytes: number;
  runtime: string;
  delegates: readonly string[];
  load_ms: number;
  threads: null; // the runtime does not tell
  latency_ms: Summary;
  knn_top1: null; // there are no labelled images on the phone
  device: DeviceInfo;
}

export async function benchmark(
  embedder: Embedder,
  manifest: Manifest,
  device: DeviceInfo,
  options: { runs?: number; warmup?: number; progress?: (done: number) => void | Promise<void> } = {},
): Promise<BenchmarkResult> {
  const { runs = RUNS, warmup = WARMUP, progress } = options;
  // A clock that goes only while the network runs: the hop to its thread and back is the app's, not the network's.
  let clock = 0;
  const call = async () => {
    clock += await embedder.timedForward();
  };
  const now = () => clock;
  await embedder.embed(pattern(manifest.preprocess.imageSize));
  const used = await warmUp(call, warmup, now);
  const [samples] = await interleave([call], [runs], BURST, now, progress);
  return {
    artifact: artifactName(manifest),
    target: manifest.target,
    scheme: manifest.scheme,
    sha256: manifest.sha256,
    bytes: manifest.bytes,
    runtime: RUNTIME,
    delegates: embedder.delegates,
    load_ms: embedder.loadMs,
    threads: null,
    latency_ms: summary(samples!, used),
    knn_top1: null,
    device,
  };
}

export function artifactName({ target, scheme }: Manifest): string {
  return `${target}-${scheme}`;
}

/** A picture that is the same on every phone; not black, as zeros may be quick to multiply. */
function pattern(side: number): Float32Array {
  return Float32Array.from({ length: 3 * side * side }, (_, i) => ((i * 37) % 256) / 255);
}

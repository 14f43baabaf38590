import { readManifest, summary } from "@lowdino/core";

import { benchmark } from "../src/model/benchmark";
import type { Embedder } from "../src/model/embedder";
import { deviceInfo } from "../src/model/device";
import { fakeModel } from "./models";

/** An embedder whose runs take the times laid out, the last one again and again. */
function timed(times: number[]) {
  const seen = { runs: 0, input: 0 };
  const embedder: Embedder = {
    loadMs: 42,
    delegates: ["XnnpackBackend"],
    embed: async (input) => {
      seen.input = input.length;
      return new Float32Array(12);
    },
    timedForward: async () => times[Math.min(seen.runs++, times.length - 1)]!,
    dispose: () => undefined,
  };
  return { embedder, seen };
}

const manifest = readManifest(fakeModel().card);

test("warm-up until stable, then the asked number of samples; the keys of lowdino_edge/bench", async () => {
  const { embedder, seen } = timed([90, 40, 20, 11, ...Array<number>(9).fill(10)]);
  const shares: number[] = [];
  const result = await benchmark(embedder, manifest, deviceInfo(), {
    runs: 20,
    progress: (done) => void shares.push(done),
  });
  const { latency_ms } = result;
  expect(Object.keys(latency_ms).sort()).toEqual([
    "min",
    "noise",
    "p50",
    "p90",
    "rise",
    "samples",
    "throttled",
    "warmup",
  ]);
  expect(latency_ms).toEqual(summary(Array(20).fill(10), latency_ms.warmup));
  expect(latency_ms.warmup).toBe(12); // ten runs, then on until the medians of the last two windows agree
  expect(seen.runs).toBe(latency_ms.warmup + 20 + 4); // and one untimed run before each burst of five
  expect(seen.input).toBe(3 * 32 * 32);
  expect(shares.at(-1)).toBe(1);
  expect(result).toMatchObject({
    artifact: "executorch-none",
    sha256: manifest.sha256,
    load_ms: 42,
    threads: null,
    knn_top1: null,
  });
  expect(JSON.parse(JSON.stringify(result))).toEqual(result);
});

test("a phone that slows down is said to throttle", async () => {
  const { embedder } = timed([...Array<number>(15).fill(10), ...Array.from({ length: 120 }, (_, i) => 10 + i / 10)]);
  const { latency_ms } = await benchmark(embedder, manifest, deviceInfo());
  expect(latency_ms.throttled).toBe(true);
  expect(latency_ms.rise).toBeGreaterThan(0.3);
});

test("the device is described without identifiers", () => {
  expect(Object.keys(deviceInfo())).toEqual(["user_agent", "platform", "model", "cores", "memory_gb", "gpu"]);
  expect(deviceInfo().platform).toMatch(/^ios /);
});

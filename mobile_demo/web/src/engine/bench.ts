// The benchmark inside the worker: load, warm up, time in turns, then embed the images. Each entry may fail alone.
import { type Call, interleave, warmUp } from "@lowdino/core";
import { Network, text } from "./litert";
import type { BenchPlan, Entry, Measured, Step } from "./messages";

interface Runner {
  entry: Entry;
  network: Network;
  loadMs: number;
  warmup: number;
  failed: boolean;
}

type Tell = (step: Step) => void;

/** Images between two progress messages. */
const REPORT = 20;

export async function bench(plan: BenchPlan, tell: Tell): Promise<Measured[]> {
  const runners: Runner[] = [];
  for (const entry of plan.entries) {
    const runner = await prepare(entry, plan, tell);
    if (runner !== null) runners.push(runner);
  }
  const samples = await time(runners, plan, tell);
  const measured: Measured[] = [];
  let done = 0;
  const total = runners.filter((r) => !r.failed).length * (plan.nBank + plan.nQuery);
  for (const [i, runner] of runners.entries()) {
    if (runner.failed) continue;
    const { key } = runner.entry;
    const count = () => {
      if (++done % REPORT === 0 || done === total) tell({ step: "embedding", share: done / total, key });
    };
    try {
      const bank = await embedAll(runner, plan.bank, plan.nBank, count);
      const query = await embedAll(runner, plan.query, plan.nQuery, count);
      measured.push({ key, samples: samples[i] ?? [], warmup: runner.warmup, loadMs: runner.loadMs, bank, query });
    } catch (e) {
      fail(runner, e, tell);
    }
    runner.network.delete();
  }
  return measured;
}

/** Loaded and warm, or null. The load is timed twice and the second kept, as Python does: the first compiles code. */
async function prepare(entry: Entry, plan: BenchPlan, tell: Tell): Promise<Runner | null> {
  const load = () => Network.load(entry.bytes, entry.shape, entry.dim, entry.backend);
  tell({ step: "loading", key: entry.key });
  try {
    (await load()).delete();
    const begin = performance.now();
    const network = await load();
    const runner: Runner = { entry, network, loadMs: performance.now() - begin, warmup: 0, failed: false };
    tell({ step: "warming", key: entry.key });
    runner.warmup = await warmUp(call(runner), plan.warmup);
    return runner;
  } catch (e) {
    tell({ step: "failed", key: entry.key, message: text(e), fatal: isFatal(e) });
    return null;
  }
}

async function time(runners: Runner[], plan: BenchPlan, tell: Tell): Promise<number[][]> {
  const timed = runners.map((runner): Call => {
    const once = call(runner);
    return async () => {
      if (runner.failed) return;
      try {
        await once();
      } catch (e) {
        fail(runner, e, tell);
      }
    };
  });
  const each = runners.map(() => plan.runs);
  return interleave(timed, each, plan.burst, undefined, async (share) => {
    tell({ step: "timing", share });
    await pause(); // lets the message out, and a phone breathe between two rounds
  });
}

/** The call that is timed: float pixels in, embedding out, both in the page's memory. */
function call(runner: Runner): Call {
  const size = runner.entry.shape.reduce((a, b) => a * b, 1);
  const input = Float32Array.from({ length: size }, (_, i) => ((i * 2654435761) % 256) / 255);
  return () => runner.network.run(input);
}

async function embedAll(runner: Runner, pixels: ArrayBuffer, n: number, count: () => void): Promise<Float32Array> {
  const { shape, dim } = runner.entry;
  const size = shape.reduce((a, b) => a * b, 1);
  const u8 = new Uint8Array(pixels);
  const out = new Float32Array(n * dim);
  const input = new Float32Array(size);
  for (let i = 0; i < n; i++) {
    for (let j = 0; j < size; j++) input[j] = (u8[i * size + j] ?? 0) / 255;
    out.set(await runner.network.run(input), i * dim);
    count();
  }
  return out;
}

function fail(runner: Runner, e: unknown, tell: Tell): void {
  runner.failed = true;
  tell({ step: "failed", key: runner.entry.key, message: text(e), fatal: isFatal(e) });
}

/** After a trap the wasm heap is in no known state: nothing measured in it afterwards counts. */
function isFatal(e: unknown): boolean {
  return e instanceof WebAssembly.RuntimeError;
}

function pause(): Promise<void> {
  return new Promise((done) => setTimeout(done, 0));
}

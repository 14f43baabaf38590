// Runs a plan in a worker of its own. What breaks there is one entry's failure: the worker is started again without it.
import { DemoError } from "@lowdino/core";
import { Engine } from "../engine/client";
import type { BenchPlan, Measured, Step } from "../engine/messages";
import type { Library } from "../model/library";
import { type Item, type Plan, fetchImages } from "./plan";

export interface Outcome {
  item: Item;
  measured: Measured | null;
  /** Why there are no figures. */
  message: string | null;
}

export interface Progress {
  text: string;
  /** 0 to 1. */
  share: number;
}

/** Nothing heard for this long: the worker hangs, as GPU drivers make it do. */
const SILENT_MS = 120_000;

export class Cancelled extends Error {}

export class BenchRunner {
  private engine: Engine | null = null;
  private cancelled = false;

  constructor(
    private readonly library: Library,
    private readonly tell: (progress: Progress) => void,
  ) {}

  cancel(): void {
    this.cancelled = true;
    this.engine?.stop(new Cancelled("cancelled"));
  }

  /** One outcome for each item, in their order. Throws `Cancelled`, or why nothing could be started at all. */
  async run(plan: Plan): Promise<Outcome[]> {
    this.tell({ text: "Fetching images and models…", share: 0 });
    const images = await fetchImages(plan.job);
    const failed = new Map<number, string>();
    const bytes = new Map<number, ArrayBuffer>();
    for (const item of plan.items)
      await this.library.open(item.choice).then(
        (opened) => bytes.set(item.key, opened.bytes),
        (e: unknown) => failed.set(item.key, String((e as Error).message)),
      );
    for (;;) {
      if (this.cancelled) throw new Cancelled("cancelled");
      const items = plan.items.filter((item) => !failed.has(item.key));
      const entries = items.map((item) => ({
        key: item.key,
        bytes: bytes.get(item.key) ?? new ArrayBuffer(0),
        shape: item.manifest.input.shape,
        dim: item.manifest.embedDim,
        backend: item.backend,
      }));
      const { runs, warmup, burst } = plan;
      const measured =
        items.length === 0 ? [] : await this.attempt({ entries, runs, warmup, burst, ...images }, items, failed);
      if (measured !== null) return plan.items.map((item) => outcome(item, measured, failed));
    }
  }

  /** One worker's life. Null where it had to end early; then `failed` has one item more than before. */
  private async attempt(plan: BenchPlan, items: Item[], failed: Map<number, string>): Promise<Measured[] | null> {
    const engine = new Engine(items.some((item) => item.backend === "webgpu"));
    this.engine = engine;
    let current = items[0]?.key ?? 0;
    let fatal = false;
    const watchdog = new Watchdog(() => engine.stop(new DemoError(`no answer for ${SILENT_MS / 1000} s`, "try again")));
    const hear = (step: Step) => {
      watchdog.heard();
      if ("key" in step) current = step.key;
      if (step.step !== "failed") return this.tell(describe(step, items));
      failed.set(step.key, step.message);
      fatal = step.fatal;
      if (fatal) engine.stop(new Error(step.message));
    };
    try {
      return await engine.bench(plan, hear);
    } catch (e) {
      if (e instanceof Cancelled) throw e;
      if (!fatal) failed.set(current, e instanceof Error ? e.message : String(e));
      return null;
    } finally {
      watchdog.end();
      engine.stop(new Error("done"));
      this.engine = null;
    }
  }
}

class Watchdog {
  private timer = 0;
  constructor(private readonly bite: () => void) {
    this.heard();
  }
  heard(): void {
    window.clearTimeout(this.timer);
    this.timer = window.setTimeout(this.bite, SILENT_MS);
  }
  end(): void {
    window.clearTimeout(this.timer);
  }
}

function outcome(item: Item, measured: Measured[], failed: Map<number, string>): Outcome {
  const message = failed.get(item.key) ?? null;
  return { item, measured: message === null ? (measured.find((m) => m.key === item.key) ?? null) : null, message };
}

/** Loading and warm-up are the first fifth of the bar, timing the next half, embedding the rest. */
function describe(step: Exclude<Step, { step: "failed" }>, items: Item[]): Progress {
  if (step.step === "timing") return { text: "Timing, in turns…", share: 0.2 + 0.5 * step.share };
  const at = items.findIndex((item) => item.key === step.key);
  const item = items[at];
  const name = item === undefined ? "" : title(item);
  if (step.step === "embedding") return { text: `Embedding images: ${name}`, share: 0.7 + 0.3 * step.share };
  const part = (at + (step.step === "warming" ? 0.5 : 0)) / Math.max(1, items.length);
  return { text: `${step.step === "loading" ? "Loading" : "Warming up"} ${name}`, share: 0.2 * part };
}

export function title(item: { model: string; backend: string }): string {
  return `${item.model} on ${item.backend === "wasm" ? "WASM" : "WebGPU"}`;
}

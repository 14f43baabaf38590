// What leaves the device: the device itself in words, each result, each failure.
import { type Backend, DemoError, type DeviceInfo, type Job, type ResultHeader, type ResultReply, encodeResult, summary } from "@lowdino/core";
import { Unreachable, post } from "../api";
import { type Plan, gpuAdapter } from "./plan";
import type { Outcome } from "./runner";

export const RUNTIME = `@litertjs/core ${__LITERT_VERSION__}`;

export async function describeDevice(): Promise<DeviceInfo> {
  const hints = await navigator.userAgentData?.getHighEntropyValues?.(["model"]).catch(() => undefined);
  const info = (await gpuAdapter())?.info;
  const gpu = [info?.vendor, info?.architecture, info?.description].filter(Boolean).join(" ");
  return {
    user_agent: navigator.userAgent,
    platform: navigator.userAgentData?.platform || navigator.platform,
    model: hints?.model || null,
    cores: navigator.hardwareConcurrency ?? null,
    memory_gb: navigator.deviceMemory ?? null,
    gpu: gpu || null,
  };
}

export type Row = ResultReply["row"];

/**
 * Posts these outcomes, failures first; `sent` says what the server made of each result.
 *
 * The last message of the job says so: `lowdino benchmark` waits for it.
 */
export async function send(
  plan: Plan,
  outcomes: Outcome[],
  sent: (outcome: Outcome, row: Row | null) => void,
): Promise<void> {
  const { job } = plan;
  if (job === null) return;
  const device = await describeDevice();
  const failures = [
    ...plan.impossible,
    ...outcomes.filter((o) => o.measured === null).map((o) => ({ ...named(o), message: o.message ?? "no result" })),
  ];
  const results = outcomes.filter((o) => o.measured !== null);
  for (const [i, failure] of failures.entries()) await fail(job, failure, results.length === 0 && i === failures.length - 1);
  let refused: unknown = null;
  for (const [i, outcome] of results.entries()) {
    const { measured, item } = outcome;
    if (measured === null) continue;
    const header: ResultHeader = {
      job: job.id,
      ...named(outcome),
      samples_ms: measured.samples,
      warmup: measured.warmup,
      load_ms: measured.loadMs,
      threads: 1,
      runtime: RUNTIME,
      device,
      n_bank: measured.bank.length / item.manifest.embedDim,
      n_query: measured.query.length / item.manifest.embedDim,
      embed_dim: item.manifest.embedDim,
      last: i === results.length - 1,
    };
    const body = encodeResult(header, measured.bank, measured.query);
    try {
      const { row } = await post<ResultReply>("api/results", body, "application/octet-stream");
      sent(outcome, row);
    } catch (e) {
      if (!(e instanceof DemoError) || e instanceof Unreachable) throw e;
      refused = e; // the server has counted it as this model's failure; the others go on
    }
  }
  if (refused !== null) throw refused;
}

async function fail(job: Job, failure: { model: string; backend: Backend; message: string }, last: boolean): Promise<void> {
  await post("api/failures", JSON.stringify({ job: job.id, ...failure, last }), "application/json");
}

/** Nothing could be measured at all: says so for every model, so that nobody waits for results. */
export async function sendFault({ job }: Plan, message: string): Promise<void> {
  if (job === null) return;
  const all = job.models.map((model) => ({ model, backend: job.backends[0] ?? ("wasm" as Backend), message }));
  for (const [i, failure] of all.entries()) await fail(job, failure, i === all.length - 1);
}

function named({ item }: Outcome): { model: string; backend: ResultHeader["backend"] } {
  return { model: item.model, backend: item.backend };
}

/** The run as JSON for the clipboard: everything but the embeddings. */
export async function asJson(plan: Plan, outcomes: Outcome[], tickMs: number): Promise<string> {
  const results = outcomes.map((o) => ({
    ...named(o),
    bytes: o.item.manifest.bytes,
    sha256: o.item.manifest.sha256,
    latency_ms: o.measured === null ? null : summary(o.measured.samples, o.measured.warmup),
    load_ms: o.measured?.loadMs ?? null,
    failure: o.message,
  }));
  const about = { runtime: RUNTIME, threads: 1, clock_tick_ms: tickMs, device: await describeDevice() };
  return JSON.stringify({ ...about, results, not_possible: plan.impossible }, null, 1);
}

/** The smallest step of this page's clock. Browsers coarsen it: 0.005 ms in isolated pages, up to 1 ms elsewhere. */
export function clockTick(): number {
  let least = Infinity;
  const end = performance.now() + 20;
  let before = performance.now();
  while (before < end) {
    const now = performance.now();
    if (now > before) least = Math.min(least, now - before);
    before = now;
  }
  return Number.isFinite(least) ? least : 1;
}

// What leaves the device: the device itself in words, each result, each failure.
import { type DeviceInfo, type ResultHeader, type ResultReply, encodeResult, summary } from "@lowdino/core";
import { post } from "../api";
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
  for (const [i, failure] of failures.entries()) {
    const last = results.length === 0 && i === failures.length - 1;
    await post("api/failures", JSON.stringify({ job: job.id, ...failure, last }), "application/json");
  }
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
    const { row } = await post<ResultReply>("api/results", body, "application/octet-stream");
    sent(outcome, row);
  }
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

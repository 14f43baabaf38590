import { describe, expect, it } from "vitest";

import { interleave, noise, percentile, rise, summary, warmUp, type Summary } from "../src/index";
import { golden } from "./golden";

interface Timing {
  summaries: { name: string; warmup: number; wanted: Summary }[];
  percentiles: { samples: number[]; q: number; wanted: number }[];
  turns: { runs: number[]; burst: number; order: number[]; counts: number[] }[];
  warm_ups: { durations_ms: number[]; at_least: number; used: number }[];
}

const timing = golden<Timing>("timing");

describe("the figures are Python's", () => {
  it.each(timing.summaries)("$name", ({ warmup, wanted }) => {
    const got = summary(wanted.samples, warmup);
    expect(Object.keys(got)).toEqual(Object.keys(wanted));
    for (const key of ["p50", "p90", "min", "noise", "rise"] as const) {
      expect(Math.abs(got[key] - wanted[key]), key).toBeLessThan(1e-9);
    }
    expect([got.samples, got.throttled, got.warmup]).toEqual([wanted.samples, wanted.throttled, wanted.warmup]);
    expect([got.noise, got.rise]).toEqual([noise(wanted.samples), rise(wanted.samples)]);
  });

  it.each(timing.percentiles)("percentile $q of $samples.length", ({ samples, q, wanted }) => {
    const before = [...samples];
    expect(Math.abs(percentile(samples, q) - wanted)).toBeLessThan(1e-9);
    expect(samples).toEqual(before);
  });

  it("refuses a percentile of nothing", () => expect(() => percentile([], 50)).toThrow(RangeError));
});

describe("interleave", () => {
  it.each(timing.turns)("calls in Python's order: $runs, burst $burst", async ({ runs, burst, order, counts }) => {
    const called: number[] = [];
    const calls = runs.map((_, i) => async () => void called.push(i));
    const samples = await interleave(calls, runs, burst);
    expect(called).toEqual(order);
    expect(samples.map((s) => s.length)).toEqual(counts);
  });

  it("times calls one after another, in milliseconds, and tells how far it is", async () => {
    let at = 0;
    let running = 0;
    const call = (ms: number) => async () => {
      expect(++running).toBe(1);
      await Promise.resolve();
      at += ms;
      running--;
    };
    const shares: number[] = [];
    const told = async (share: number) => void shares.push(share);
    expect(await interleave([call(3), call(7)], [4, 2], 2, () => at, told)).toEqual([[3, 3, 3, 3], [7, 7]]);
    expect(shares).toEqual([0.5, 1]);
  });

  it("uses a real clock where none is given", async () => {
    const [samples] = await interleave([() => new Promise((done) => setTimeout(done, 20))], [3], 3);
    for (const ms of samples!) expect(ms).toBeGreaterThan(15);
  });

  it("passes a call's failure on, and refuses lists that do not match", async () => {
    const fails = () => Promise.reject(new Error("lost the GPU"));
    await expect(interleave([fails], [3])).rejects.toThrow("lost the GPU");
    await expect(interleave([fails], [3, 4])).rejects.toThrow(RangeError);
  });
});

describe("warmUp", () => {
  it.each(timing.warm_ups)("stops where Python's does, after $used calls", async ({ durations_ms, at_least, used }) => {
    let at = 0;
    let calls = 0;
    const call = async () => {
      at += durations_ms[Math.min(calls++, durations_ms.length - 1)]!;
    };
    expect(await warmUp(call, at_least, () => at)).toBe(used);
    expect(calls).toBe(used);
  });
});

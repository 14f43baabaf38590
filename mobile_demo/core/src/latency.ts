/** Honest timing of single calls, as lowdino_edge/bench/latency.py: same rules, same figures, calls awaited. */
import { roundHalfEven } from "./numbers";

export type Call = () => Promise<unknown>;
export type Clock = () => number; // milliseconds

/** `latency_ms` of the benchmark, milliseconds. */
export interface Summary {
  p50: number;
  p90: number;
  min: number;
  samples: number[];
  noise: number;
  rise: number;
  throttled: boolean;
  warmup: number;
}

export const BURST = 5; // timed calls a turn
export const RISE = 0.1; // slower by this share at the end of the run than at its start: said to be throttled
const STABLE = 0.05; // warm-up ends when the medians of two windows in a row differ by less than this share
const WINDOW = 5;
const MAX_WARMUP_MS = 10_000;

declare const performance: { now(): number }; // every browser and Hermes have it

const clock: Clock = () => performance.now();

/** numpy's linear percentile; q in [0, 100]. */
export function percentile(samples: ArrayLike<number>, q: number): number {
  if (samples.length === 0) throw new RangeError("no samples");
  const sorted = Float64Array.from(samples).sort();
  const place = (q / 100) * (sorted.length - 1);
  const low = Math.floor(place);
  const from = sorted[low]!;
  const to = sorted[Math.min(low + 1, sorted.length - 1)]!;
  return from + (to - from) * (place - low);
}

/** Interquartile range over the median: how far a single figure is to be trusted. */
export function noise(samples: ArrayLike<number>): number {
  const middle = percentile(samples, 50);
  return middle > 0 ? (percentile(samples, 75) - percentile(samples, 25)) / middle : 0;
}

/**
 * Change over the run as a share of its median; 0.2 means a fifth slower at the end than at the start.
 *
 * The slope is the median over all pairs of stretches (Theil and Sen), so that a burst of other work is no trend.
 * Under 15 samples nothing is claimed.
 */
export function rise(samples: ArrayLike<number>, parts = 10): number {
  parts = Math.min(parts, Math.floor(samples.length / WINDOW));
  if (parts < 3) return 0;
  const medians = stretches(Array.from(samples), parts).map(median);
  const slopes: number[] = [];
  for (let i = 0; i < parts; i++) {
    for (let j = i + 1; j < parts; j++) slopes.push((medians[j]! - medians[i]!) / (j - i));
  }
  const middle = median(samples);
  return middle > 0 ? (median(slopes) * (parts - 1)) / middle : 0;
}

export function summary(samples: ArrayLike<number>, warmup: number): Summary {
  const change = rise(samples);
  return {
    p50: percentile(samples, 50),
    p90: percentile(samples, 90),
    min: percentile(samples, 0),
    samples: Array.from(samples),
    noise: noise(samples),
    rise: change,
    throttled: change > RISE,
    warmup,
  };
}

/**
 * Calls at least `atLeast` times and then until the time of a call is stable; returns how many calls it took.
 *
 * Gives up on stability after five times as many calls, or ten seconds. 0 means no warm-up.
 */
export async function warmUp(call: Call, atLeast: number, now: Clock = clock): Promise<number> {
  const samples: number[] = [];
  const start = now();
  while (samples.length < 5 * atLeast) {
    samples.push(await timed(call, now));
    if (samples.length < atLeast) continue;
    if (stable(samples) || now() - start > MAX_WARMUP_MS) break;
  }
  return samples.length;
}

/**
 * Times each call `runs` times, taking turns; milliseconds in the order they were taken.
 *
 * A turn is one untimed call, which brings the model back into the caches, and a burst of timed ones. A call with
 * fewer runs than the others has shorter turns, so that its samples span the whole time too.
 *
 * @param afterRound told the share that is done after each round; awaited, so that a page can draw.
 */
export async function interleave(
  calls: readonly Call[],
  runs: readonly number[],
  burst = BURST,
  now: Clock = clock,
  afterRound?: (done: number) => void | Promise<void>,
): Promise<number[][]> {
  if (calls.length !== runs.length) throw new RangeError(`${calls.length} calls, but ${runs.length} numbers of runs`);
  const rounds = Math.max(1, roundHalfEven(Math.max(...runs, runs.length ? -Infinity : 1) / burst));
  const samples: number[][] = calls.map(() => []);
  for (let round = 1; round <= rounds; round++) {
    for (const [i, call] of calls.entries()) {
      const taken = samples[i]!;
      const turn = Math.floor((runs[i]! * round) / rounds) - taken.length;
      if (turn > 0) await call();
      for (let n = 0; n < turn; n++) taken.push(await timed(call, now));
    }
    await afterRound?.(round / rounds);
  }
  return samples;
}

async function timed(call: Call, now: Clock): Promise<number> {
  const start = now();
  await call();
  return now() - start;
}

function stable(samples: readonly number[]): boolean {
  if (samples.length < 2 * WINDOW) return false;
  const before = median(samples.slice(-2 * WINDOW, -WINDOW));
  return Math.abs(median(samples.slice(-WINDOW)) - before) <= STABLE * before;
}

function median(values: ArrayLike<number>): number {
  return percentile(values, 50);
}

/** Cut into `parts` of nearly equal length; the first ones are longer by one where it does not divide. */
function stretches(samples: readonly number[], parts: number): number[][] {
  const short = Math.floor(samples.length / parts);
  const longer = samples.length % parts;
  return Array.from({ length: parts }, (_, i) => {
    const start = i * short + Math.min(i, longer);
    return samples.slice(start, start + short + (i < longer ? 1 : 0));
  });
}

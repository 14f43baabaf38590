import { floatsToBase64 } from "@lowdino/core";
import { describe, expect, it } from "vitest";
import { axis, ticks } from "../src/bench/chart";
import type { Engine } from "../src/engine/client";
import { checkGolden } from "../src/model/golden";

describe("ticks", () => {
  it("are round and inside, on both axes", () => {
    expect(ticks(0, 9.7, false, 360)).toEqual([0, 5]);
    expect(ticks(1.2, 9.7, false, 900)).toEqual([2, 3, 4, 5, 6, 7, 8, 9]);
    expect(ticks(0.4, 60, true, 1000)).toEqual([0.5, 1, 2, 5, 10, 20, 50]);
  });
  it("are never so many that they touch", () => {
    for (const width of [280, 360, 900])
      for (const [from, to] of [
        [0, 3],
        [0.31, 0.34],
        [2, 2000],
      ] as const)
        for (const log of from > 0 ? [true, false] : [false])
          expect(ticks(from, to, log, width).length).toBeLessThanOrEqual(width / 60);
  });
});

describe("axis", () => {
  const of = (...samples: number[]) => axis([{ name: "a", samples, colour: 0 }]);

  it("is linear for one speed and logarithmic for very different ones", () => {
    expect(of(4, 5, 6).log).toBe(false);
    expect(of(1, 2, 40).log).toBe(true);
  });
  it("has a place for everything where the clock is so coarse that calls take 0 ms", () => {
    for (const samples of [
      [0, 0, 0],
      [0, 1, 0, 1],
      [0, 1, 20],
    ]) {
      const { from, high, log } = of(...samples);
      expect(high).toBeGreaterThan(from);
      if (log) expect(from).toBeGreaterThan(0);
      expect(ticks(from, high, log, 360).length).toBeLessThan(10);
    }
  });
});

describe("checkGolden", () => {
  const size = 2;
  // Channel c of pixel p is 10 c + p, planes one after the other, as golden.json has them.
  const nchw = Float32Array.from({ length: 12 }, (_, i) => 10 * Math.floor(i / 4) + (i % 4));
  const golden = (embedding: Float32Array) => ({
    n: 1,
    size,
    embed_dim: 12,
    input: floatsToBase64(nchw),
    embedding: floatsToBase64(embedding),
    reference: "",
  });
  // An engine that gives back its input: the test is about what is asked of it.
  const echo = { embedInput: (input: Float32Array) => Promise.resolve(input) } as unknown as Engine;

  it("hands the network NHWC", async () => {
    const nhwc = Float32Array.from([0, 10, 20, 1, 11, 21, 2, 12, 22, 3, 13, 23]);
    const { cosines } = await checkGolden(echo, golden(nhwc));
    expect(cosines[0]).toBeCloseTo(1, 12);
    expect((await checkGolden(echo, golden(nchw))).cosines[0]).toBeLessThan(0.99);
  });
  it("refuses a file that is cut short", async () => {
    await expect(checkGolden(echo, { ...golden(nchw), n: 2 })).rejects.toThrow("golden.json is damaged");
  });
});

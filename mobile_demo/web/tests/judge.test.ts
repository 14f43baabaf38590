import { type Bank, type Vote, classify } from "@lowdino/core";
import { describe, expect, it } from "vitest";
import { Judge, floorOf } from "../src/live/judge";

function bankOf(rows: number[][], labels: number[]): Bank {
  return { data: Float32Array.from(rows.flat()), labels: Int32Array.from(labels), dim: rows[0]?.length ?? 0 };
}

describe("floorOf", () => {
  it("is the mean cosine between examples of different classes", () => {
    const [a, b] = [
      [1, 0],
      [3, 4],
    ]; // cosine 0.6, lengths differ
    expect(floorOf(bankOf([a, a, b], [0, 0, 1]))).toBeCloseTo(0.6, 6);
  });
  it("stays between 0.25 and 0.9, and is 0.25 where there is but one class", () => {
    expect(
      floorOf(
        bankOf(
          [
            [1, 0],
            [0, 1],
          ],
          [0, 1],
        ),
      ),
    ).toBe(0.25);
    expect(
      floorOf(
        bankOf(
          [
            [1, 0],
            [1, 0.01],
          ],
          [0, 1],
        ),
      ),
    ).toBe(0.9);
    expect(
      floorOf(
        bankOf(
          [
            [1, 0],
            [1, 0],
          ],
          [0, 0],
        ),
      ),
    ).toBe(0.25);
  });
});

describe("Judge", () => {
  const bank = bankOf(
    [
      [1, 0, 0],
      [0.8, 0.6, 0],
    ],
    [0, 1],
  );
  const vote = (...query: number[]): Vote => classify(bank, Float32Array.from(query), { classes: 2 });

  it("names what it sees at once", () => {
    expect(new Judge(floorOf(bank)).take(vote(1, 0, 0))).toMatchObject({ label: 0, doubt: null });
  });
  it("is not moved by one odd frame, and follows when it stays", () => {
    const judge = new Judge(0);
    for (let i = 0; i < 5; i++) judge.take(vote(1, 0, 0));
    expect(judge.take(vote(0.8, 0.6, 0)).leading).toBe(0);
    for (let i = 0; i < 8; i++) judge.take(vote(0.8, 0.6, 0));
    expect(judge.take(vote(0.8, 0.6, 0))).toMatchObject({ label: 1, doubt: null });
  });
  it("is not sure of what is like nothing taught", () => {
    expect(new Judge(floorOf(bank)).take(vote(0, 0, 1))).toMatchObject({ label: null, doubt: "unlike" });
  });
  it("is not sure between two that are equally near", () => {
    const middle = vote(Math.cos(0.32175), Math.sin(0.32175), 0); // half the angle between both
    expect(new Judge(0).take(middle)).toMatchObject({ label: null, doubt: "torn" });
  });
  it("forgets at a reset", () => {
    const judge = new Judge(0);
    for (let i = 0; i < 5; i++) judge.take(vote(1, 0, 0));
    judge.reset();
    expect(judge.take(vote(0.8, 0.6, 0)).label).toBe(1);
  });
});

import { describe, expect, it } from "vitest";

import { classify, DemoError, neighbourAgreement, normalise, top1, type Bank } from "../src/index";
import { floats, golden } from "./golden";

interface Knn {
  name: string;
  dim: number;
  classes: number;
  k: number;
  temperature: number;
  bank: string;
  bank_labels: number[];
  query: string;
  query_labels: number[];
  index: number[][];
  similarity: string;
  predicted: number[];
  top1: number;
}

interface Agreement {
  name: string;
  dim: number;
  reference: string;
  got: string;
  bank_reference?: string;
  bank?: string;
  wanted: number;
}

const { knn, agreement } = golden<{ knn: Knn[]; agreement: Agreement[] }>("embeddings");

function parts(c: Knn) {
  const query = floats(c.query);
  return {
    bank: { data: floats(c.bank), labels: Int32Array.from(c.bank_labels), dim: c.dim },
    queries: c.query_labels.map((_, i) => query.subarray(i * c.dim, (i + 1) * c.dim)),
    options: { k: c.k, temperature: c.temperature, classes: c.classes },
  };
}

describe("the vote is Python's", () => {
  it.each(knn)("$name: the same class for every query", (c) => {
    const { bank, queries, options } = parts(c);
    expect(queries.map((query) => classify(bank, query, options).label)).toEqual(c.predicted);
    expect(top1(bank, floats(c.query), Int32Array.from(c.query_labels), options)).toBe(c.top1);
  });

  it.each(knn)("$name: the same neighbours, but where cosines differ in the last digit alone", (c) => {
    const { bank, queries, options } = parts(c);
    const similarity = floats(c.similarity);
    queries.forEach((query, i) => {
      const { neighbours } = classify(bank, query, options);
      expect(neighbours.length).toBe(c.index[i]!.length);
      neighbours.forEach((neighbour, n) => {
        expect(Math.abs(neighbour.similarity - similarity[i * neighbours.length + n]!)).toBeLessThan(1e-6);
        expect(neighbour.similarity).toBe(Math.fround(neighbour.similarity));
        expect(neighbour.label).toBe(bank.labels[neighbour.index]);
        const wanted = c.index[i]![n]!;
        if (neighbour.index === wanted) return;
        const there = neighbours.find(({ index }) => index === wanted) ?? neighbours.at(-1)!;
        expect(c.name).not.toMatch(/ties|zero query/); // those cosines are exact: the order of the bank decides
        expect(Math.abs(there.similarity - neighbour.similarity)).toBeLessThan(1e-6);
      });
    });
  });

  it.each(knn)("$name: shares are the weights' shares", (c) => {
    const { bank, queries, options } = parts(c);
    for (const query of queries) {
      const { label, confidence, shares, neighbours } = classify(bank, query, options);
      const weights = neighbours.map((n) => Math.exp((n.similarity - neighbours[0]!.similarity) / c.temperature));
      const total = weights.reduce((a, b) => a + b);
      const mine = weights.reduce((sum, w, n) => sum + (neighbours[n]!.label === label ? w : 0), 0);
      expect(confidence).toBeCloseTo(mine / total, 12);
      expect(shares.length).toBe(c.classes);
      expect(shares.reduce((a, b) => a + b)).toBeCloseTo(1, 12);
      expect(confidence).toBe(Math.max(...shares));
    }
  });
});

const TWO: Bank = { data: Float32Array.of(1, 0, 0, 1, -1, 0), labels: Int32Array.of(1, 0, 1), dim: 2 };

describe("classify", () => {
  it("takes k 20 and temperature 0.07 where none are given", () => {
    const query = Float32Array.of(1, 0.9);
    const bank = { data: new Float32Array(60).map((_, i) => Math.sin(i * i)), labels: new Int32Array(30), dim: 2 };
    bank.labels.fill(1, 0, 15);
    const said = classify(bank, query, { k: 20, temperature: 0.07, classes: 2 });
    expect(classify(bank, query, { classes: 2 })).toEqual(said);
    expect(said.neighbours.length).toBe(20);
    expect(said.confidence).toBeLessThan(1);
  });

  it("gives a tie to the class that comes first, neighbours in the order of the bank", () => {
    const vote = classify(TWO, Float32Array.of(3, 3), { k: 2, classes: 2 });
    expect([vote.label, vote.confidence, vote.neighbours.map((n) => n.index)]).toEqual([0, 0.5, [0, 1]]);
  });

  it("does not overflow at a temperature near zero", () => {
    const vote = classify(TWO, Float32Array.of(1, 0.1), { temperature: 1e-6, classes: 2 });
    expect([vote.label, vote.confidence]).toEqual([1, 1]);
  });

  it("leaves rows without a class out and keeps the others' indices", () => {
    const bank = { ...TWO, labels: Int32Array.of(-1, 0, 1) };
    const { neighbours, label } = classify(bank, Float32Array.of(1, 0), { classes: 2 });
    expect([label, neighbours.map((n) => n.index)]).toEqual([0, [1, 2]]);
  });

  it("says what is wrong with a bank or a query", () => {
    const empty = { data: new Float32Array(0), labels: new Int32Array(0), dim: 2 };
    const query = Float32Array.of(1, 0);
    expect(() => classify(empty, query, { classes: 2 })).toThrow("no examples");
    expect(() => classify(TWO, Float32Array.of(1, 0, 0), { classes: 2 })).toThrow("2 wide, the picture's 3");
    expect(() => classify(TWO, Float32Array.of(1, NaN), { classes: 2 })).toThrow("not finite");
    expect(() => classify({ ...TWO, data: TWO.data.map(() => Infinity) }, query, { classes: 2 })).toThrow(DemoError);
    for (const wrong of [{ classes: 1 }, { k: 0 }, { k: 1.5 }, { temperature: 0 }]) {
      expect(() => classify(TWO, query, { classes: 2, ...wrong })).toThrow(RangeError);
    }
  });
});

describe("top1", () => {
  const queries = Float32Array.of(1, 0.1, 0, 2, -3, 0.2);

  it("counts labelled queries alone", () => {
    expect(top1(TWO, queries, Int32Array.of(1, 1, 1), { k: 1, classes: 2 })).toBe(2 / 3);
    expect(top1(TWO, queries, Int32Array.of(1, -1, 1), { k: 1, classes: 2 })).toBe(1);
  });

  it("refuses what Python refuses", () => {
    const options = { k: 1, classes: 2 };
    const labels = Int32Array.of(1, 0, 1);
    const zero = new Float32Array(6);
    expect(() => top1(TWO, zero, labels, options)).toThrow("3 of 3 embeddings of the query set are zero");
    expect(() => top1({ ...TWO, data: zero }, queries, labels, options)).toThrow("of the bank are zero");
    expect(() => top1(TWO, queries.map((x, i) => (i === 2 ? NaN : x)), labels, options)).toThrow("1 of 3");
    expect(() => top1(TWO, queries, Int32Array.of(-1, -1, -1), options)).toThrow("no examples");
    expect(() => top1(TWO, queries, Int32Array.of(0, 1), options)).toThrow(RangeError);
    expect(() => top1(TWO, queries.subarray(1), labels, options)).toThrow("no rows of 2");
  });
});

describe("neighbourAgreement is Python's", () => {
  it.each(agreement)("$name", (c) => {
    const banks = c.bank ? { reference: floats(c.bank_reference!), got: floats(c.bank) } : undefined;
    expect(neighbourAgreement(floats(c.reference), floats(c.got), c.dim, banks)).toBe(c.wanted);
  });

  it("compares one set of images", () => {
    expect(() => neighbourAgreement(new Float32Array(4), new Float32Array(6), 2)).toThrow(RangeError);
    expect(() => neighbourAgreement(new Float32Array(0), new Float32Array(0), 2)).toThrow(RangeError);
  });
});

it("normalises to length 1, and leaves zero zero", () => {
  expect(normalise(Float32Array.of(3, -4))).toEqual(Float32Array.of(0.6, -0.8));
  // squares that float32 cannot hold
  expect(normalise(Float32Array.of(3e20, 4e20))).toEqual(Float32Array.of(0.6, 0.8));
  expect(normalise(new Float32Array(3))).toEqual(new Float32Array(3));
});

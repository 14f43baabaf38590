/**
 * k-nearest-neighbour classification of embeddings: the standard protocol of lowdino_edge/evals/knn.py.
 *
 * Rows are brought to length 1, neighbours ranked by cosine (rounded to float32, as Python has it), and each of the k
 * nearest votes for its class with weight exp(cosine / temperature).
 *
 * Ties: neighbours of equal cosine count in the order of the bank; classes of equal votes go to the one that comes
 * first. Python's rule is the same but for one case: of more equal rows than k has room for, it may keep any.
 */
import { dot, isFinite, needFinite, needNotZero, rowCount, unitRows } from "./embeddings";
import { DemoError } from "./errors";

/** Labelled embeddings, row after row. A row with a label below 0 has no class and does not vote. */
export interface Bank {
  data: Float32Array;
  labels: Int32Array;
  dim: number;
}

export interface KnnOptions {
  k?: number;
  temperature?: number;
  classes: number;
}

export interface Neighbour {
  index: number; // row of the bank
  label: number;
  similarity: number; // cosine
}

export interface Vote {
  label: number;
  confidence: number; // the winner's share of the votes
  shares: Float64Array; // of each class, sum 1
  neighbours: Neighbour[]; // nearest first
}

const K = 20;
const TEMPERATURE = 0.07;
const TIE = 1e-6; // cosines nearer than this are equal: float32 cannot tell them apart

/** The vector at length 1; a zero vector stays zero. */
export function normalise(z: Float32Array): Float32Array<ArrayBuffer> {
  return unitRows(z, z.length);
}

/** The class of one embedding, by the vote of its nearest rows in the bank; k is clipped to the bank. */
export function classify(bank: Bank, query: Float32Array, options: KnnOptions): Vote {
  countLabelled(bank, options.classes, "bank");
  if (query.length !== bank.dim) {
    throw new DemoError(
      `the bank's embeddings are ${bank.dim} wide, the picture's ${query.length}`,
      "embed both with one model",
    );
  }
  needFinite(bank.data, bank.dim, "bank");
  needFinite(query, bank.dim, "picture");
  return vote(bank, unitRows(bank.data, bank.dim), normalise(query), options);
}

/** Share of the labelled queries whose class is predicted right. Raises what `knn_top1` in Python raises. */
export function top1(bank: Bank, queries: Float32Array, labels: Int32Array, options: KnnOptions): number {
  const { data, dim } = bank;
  countLabelled(bank, options.classes, "bank");
  const asked = countLabelled({ data: queries, labels, dim }, options.classes, "query set");
  needFinite(data, dim, "bank");
  needFinite(queries, dim, "query set");
  needNotZero(data, dim, "bank");
  needNotZero(queries, dim, "query set");
  const unitBank = unitRows(data, dim);
  const unitQueries = unitRows(queries, dim);
  let right = 0;
  for (let i = 0; i < labels.length; i++) {
    if (labels[i]! < 0) continue;
    const query = unitQueries.subarray(i * dim, (i + 1) * dim);
    if (vote(bank, unitBank, query, options).label === labels[i]) right++;
  }
  return right / asked;
}

/**
 * Share of images whose nearest image by cosine is the same one in both spaces, as lowdino_edge/evals/parity.py.
 *
 * Nearest of the other images, or of `banks` where given (embedded by both networks too). A neighbour as near as the
 * reference's own, to float32 precision, counts as the same. A row of `got` that is not finite disagrees.
 */
export function neighbourAgreement(
  reference: Float32Array,
  got: Float32Array,
  dim: number,
  banks?: { reference: Float32Array; got: Float32Array },
): number {
  const n = rowsOfPair(reference, got, dim);
  if (!banks && n === 1) return 1;
  const m = banks ? rowsOfPair(banks.reference, banks.got, dim) : n;
  const a = unitRows(reference, dim);
  const b = unitRows(got, dim);
  const bankA = banks ? unitRows(banks.reference, dim) : a;
  const bankB = banks ? unitRows(banks.got, dim) : b;
  let same = 0;
  for (let i = 0; i < n; i++) {
    if (!isFinite(got, i * dim, dim)) continue;
    let best = -Infinity;
    let chosen = -Infinity; // the reference's cosine of the neighbour that `got` chooses
    let bestGot = -Infinity;
    for (let j = 0; j < m; j++) {
      if (!banks && j === i) continue;
      const simA = dot(a, i * dim, bankA, j * dim, dim);
      const simB = dot(b, i * dim, bankB, j * dim, dim);
      if (simA > best) best = simA;
      if (simB > bestGot) {
        bestGot = simB;
        chosen = simA;
      }
    }
    if (chosen >= best - TIE) same++;
  }
  return same / n;
}

function rowsOfPair(reference: Float32Array, got: Float32Array, dim: number): number {
  if (reference.length !== got.length || reference.length === 0) {
    throw new RangeError(`embeddings of one set of images wanted, not ${reference.length} and ${got.length} numbers`);
  }
  return rowCount(got, dim, "images");
}

/** How many rows have a class; refused where none has. */
function countLabelled({ data, labels, dim }: Bank, classes: number, what: string): number {
  if (rowCount(data, dim, what) !== labels.length) {
    throw new RangeError(`${data.length / dim} embeddings of the ${what}, but ${labels.length} labels`);
  }
  if (labels.some((label) => label >= classes)) throw new RangeError(`a label of the ${what} is not below ${classes}`);
  const n = labels.reduce((total, label) => total + (label >= 0 ? 1 : 0), 0);
  if (n === 0) throw new DemoError(`the ${what} has no examples with a class`, "teach a class first");
  return n;
}

function vote(bank: Bank, unitBank: Float32Array, unitQuery: Float32Array, options: KnnOptions): Vote {
  const { k = K, temperature = TEMPERATURE, classes } = options;
  if (!(Number.isInteger(k) && k >= 1)) throw new RangeError(`k is ${k}, not a whole number of at least 1`);
  if (!(temperature > 0)) throw new RangeError(`the temperature is ${temperature}, not above 0`);
  const neighbours = nearest(bank, unitBank, unitQuery, k);
  const best = neighbours[0]!.similarity;
  const shares = new Float64Array(classes);
  let sum = 0;
  for (const { label, similarity } of neighbours) {
    const weight = Math.exp((similarity - best) / temperature); // scaled by the best, so that none overflows
    shares[label]! += weight;
    sum += weight;
  }
  let label = 0;
  for (let c = 1; c < classes; c++) if (shares[c]! > shares[label]!) label = c;
  for (let c = 0; c < classes; c++) shares[c]! /= sum;
  return { label, confidence: shares[label]!, shares, neighbours };
}

function nearest(bank: Bank, unitBank: Float32Array, unitQuery: Float32Array, k: number): Neighbour[] {
  const all: Neighbour[] = [];
  for (let index = 0; index < bank.labels.length; index++) {
    const label = bank.labels[index]!;
    if (label < 0) continue;
    const similarity = Math.fround(dot(unitBank, index * bank.dim, unitQuery, 0, bank.dim));
    all.push({ index, label, similarity });
  }
  all.sort((x, y) => y.similarity - x.similarity || x.index - y.index);
  return all.slice(0, k);
}

/** Rows of numbers: what kNN and the agreement with a reference share. */
import { DemoError } from "./errors";

const ZERO_LIMIT = 0.01; // share of zero embeddings (a black image, say) that is still no fault of the model

export function dot(a: Float32Array, at: number, b: Float32Array, from: number, n: number): number {
  let sum = 0;
  for (let d = 0; d < n; d++) sum += a[at + d]! * b[from + d]!;
  return sum;
}

/** Rows of length 1; rows that are zero or not finite become zero. */
export function unitRows(z: Float32Array, dim: number): Float32Array<ArrayBuffer> {
  const unit = new Float32Array(z.length);
  for (let at = 0; at < z.length; at += dim) {
    const length = Math.sqrt(dot(z, at, z, at, dim));
    if (!(length > 0 && length < Infinity)) continue;
    for (let d = at; d < at + dim; d++) unit[d] = z[d]! / length;
  }
  return unit;
}

export function isFinite(z: Float32Array, at: number, dim: number): boolean {
  for (let d = at; d < at + dim; d++) if (!Number.isFinite(z[d])) return false;
  return true;
}

/** Rows of a flat array; DemoError where they are not `dim` wide. */
export function rowCount(z: Float32Array, dim: number, what: string): number {
  if (dim >= 1 && z.length % dim === 0) return z.length / dim;
  throw new DemoError(`${z.length} numbers of the ${what} are no rows of ${dim}`, "embed both with one model");
}

/** Refuses rows that are not finite. */
export function needFinite(z: Float32Array, dim: number, what: string): void {
  const n = rowCount(z, dim, what);
  let bad = 0;
  for (let i = 0; i < n; i++) if (!isFinite(z, i * dim, dim)) bad++;
  if (bad === 0) return;
  throw new DemoError(
    `${bad} of ${n} embeddings of the ${what} are not finite`,
    "the model is broken on this device: take another model, or another backend",
  );
}

/** Refuses more zero rows than a few black images explain. */
export function needNotZero(z: Float32Array, dim: number, what: string): void {
  const n = rowCount(z, dim, what);
  let zero = 0;
  for (let i = 0; i < n; i++) if (z.subarray(i * dim, (i + 1) * dim).every((x) => x === 0)) zero++;
  if (zero <= ZERO_LIMIT * n) return;
  throw new DemoError(
    `${zero} of ${n} embeddings of the ${what} are zero, cosine has no meaning for them`,
    "the model has collapsed or was never trained: take another one",
  );
}

// The proof, taken to this very device: images whose embeddings are known, run here and compared.
import { DemoError, type Golden, floatsFromBase64 } from "@lowdino/core";
import type { Engine } from "../engine/client";

export interface GoldenCheck {
  n: number;
  /** Of each image, to the embedding that the file gave on its own runtime when it was exported. */
  cosines: number[];
}

/** Runs the golden images of a served model here and compares with what its own runtime gave at export. */
export async function checkGolden(engine: Engine, golden: Golden): Promise<GoldenCheck> {
  const input = floatsFromBase64(golden.input);
  const wanted = floatsFromBase64(golden.embedding);
  const { n, size, embed_dim: dim } = golden;
  if (input?.length !== n * 3 * size * size || wanted?.length !== n * dim)
    throw new DemoError("golden.json is damaged", "export the model again");
  const cosines: number[] = [];
  for (let i = 0; i < n; i++) {
    const got = await engine.embedInput(toNhwc(input.subarray(i * 3 * size * size, (i + 1) * 3 * size * size), size));
    cosines.push(cosine(got, wanted.subarray(i * dim, (i + 1) * dim)));
  }
  return { n, cosines };
}

function toNhwc(nchw: Float32Array, size: number): Float32Array {
  const plane = size * size;
  return Float32Array.from({ length: 3 * plane }, (_, i) => nchw[(i % 3) * plane + Math.floor(i / 3)] ?? 0);
}

function cosine(a: Float32Array, b: Float32Array): number {
  let ab = 0;
  let aa = 0;
  let bb = 0;
  a.forEach((x, i) => {
    const y = b[i] ?? 0;
    ab += x * y;
    aa += x * x;
    bb += y * y;
  });
  return ab / Math.sqrt(aa * bb);
}

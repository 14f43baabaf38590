/** Models for the tests: a file for the stand-in of ExecuTorch, and a card as `lowdino export` writes it. */
import { createHash } from "node:crypto";

import { offered } from "./fakes/files";

export interface Fake {
  scheme?: string;
  side?: number;
  dim?: number;
  card?: object; // fields of the card to put wrong
}

export function fakeModel({ scheme = "none", side = 32, dim = 12, card = {} }: Fake = {}) {
  const bytes = Buffer.from(JSON.stringify({ side, dim, scheme }));
  return {
    bytes,
    card: {
      target: "executorch",
      scheme,
      file: "model.pte",
      sha256: createHash("sha256").update(bytes).digest("hex"),
      bytes: bytes.length,
      embed_dim: dim,
      student: "nano",
      input: { shape: [1, 3, side, side], dtype: "float32", layout: "NCHW", range: [0, 1] },
      output: { shape: [1, dim], dtype: "float32" },
      preprocess: { image_size: side, crop_ratio: 0.875, interpolation: "bicubic", resize: Math.round(side / 0.875) },
      ...card,
    },
  };
}

/** The two files, as a person finds them in the picker. */
export function offeredModel(fake: Fake = {}) {
  const { bytes, card } = fakeModel(fake);
  return [offered("artifact.json", JSON.stringify(card)), offered("model.pte", bytes)];
}

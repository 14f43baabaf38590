import { webcrypto } from "node:crypto";

import fc from "fast-check";
import { afterEach, describe, expect, it, vi } from "vitest";

import { checkFile, DemoError, readManifest, sha256 } from "../src/index";
import { bytes, golden } from "./golden";

interface Cards {
  card: Record<string, unknown>;
  content: string;
  wanted: { resize: number; bytes: number; embed_dim: number };
  refused: unknown[];
  preprocess: { image_size: number; crop_ratio: number; resize: number; interpolation: string }[];
  sha256: { length: number; wanted: string }[];
}

const cards = golden<Cards>("cards");
const content = bytes(cards.content);

describe("readManifest", () => {
  it("reads what Python writes", () => {
    const got = readManifest(cards.card);
    expect(got).toEqual({
      target: "tflite",
      scheme: "w8a8",
      student: "nano",
      file: "model.tflite",
      sha256: cards.card["sha256"],
      bytes: cards.wanted.bytes,
      embedDim: cards.wanted.embed_dim,
      input: { shape: [1, 48, 48, 3], dtype: "float32", layout: "NHWC", range: [0, 1] },
      output: { shape: [1, 96], dtype: "float32" },
      preprocess: { imageSize: 48, cropRatio: 0.875, resize: cards.wanted.resize, interpolation: "bilinear" },
      raw: cards.card,
    });
  });

  it.each(cards.preprocess)("rounds $image_size / $crop_ratio as Python does", (preprocess) => {
    const side = preprocess.image_size;
    const input = { ...(cards.card["input"] as object), shape: [1, side, side, 3] };
    expect(readManifest({ ...cards.card, preprocess, input }).preprocess.resize).toBe(preprocess.resize);
  });

  it.each(cards.refused.map((card, i) => [i, card] as const))("refuses what Python refuses, %i", (_, card) => {
    expect(told(() => readManifest(card))).toMatch(/card.*\n.*lowdino export/);
  });

  const wrong: [string, unknown][] = [
    ["input.layout", { input: { ...(cards.card["input"] as object), layout: "CHWN" } }],
    ["input.shape", { input: { ...(cards.card["input"] as object), shape: [1, 3, 48, 48] } }],
    ["input.shape", { input: { ...(cards.card["input"] as object), shape: [1, 48, 48] } }],
    ["input.shape", { input: { ...(cards.card["input"] as object), shape: "1,48,48,3" } }],
    ["input.range", { input: { ...(cards.card["input"] as object), range: [0] } }],
    ["input.range", { input: { ...(cards.card["input"] as object), range: [0, "1"] } }],
    ["input.dtype", { input: { ...(cards.card["input"] as object), dtype: 32 } }],
    ["output.shape", { output: { shape: [1, 95], dtype: "float32" } }],
    ["output.dtype", { output: { shape: [1, 96] } }],
    ["sha256", { sha256: "abc" }],
    ["bytes", { bytes: -1 }],
    ["embed_dim", { embed_dim: 0 }],
    ["preprocess.image_size", { preprocess: { ...cards.preprocess[0], image_size: 0 } }],
    ["preprocess.image_size", { preprocess: { ...cards.preprocess[0], image_size: 1e9 } }],
    ["preprocess.crop_ratio", { preprocess: { ...cards.preprocess[0], crop_ratio: 0 } }],
    ["preprocess.crop_ratio", { preprocess: { ...cards.preprocess[0], crop_ratio: 1e-9 } }],
    ["preprocess.interpolation", { preprocess: { ...cards.preprocess[0], interpolation: "lanczos" } }],
  ];
  it.each(wrong)("names the field that is wrong: %s, case %#", (field, change) => {
    expect(told(() => readManifest({ ...cards.card, ...(change as object) }))).toContain(`no valid '${field}'`);
  });

  it("refuses a file name that leads out of the folder, on any system", () => {
    for (const file of ["a\\b", "..\\model.tflite", "C:\\x", "/etc/passwd"]) {
      expect(told(() => readManifest({ ...cards.card, file }))).toContain("outside its directory");
    }
  });

  it("answers any JSON with a manifest or a DemoError", () => {
    const keys = fc.constantFrom(...Object.keys(cards.card));
    fc.assert(
      fc.property(fc.dictionary(keys, fc.jsonValue(), { maxKeys: 3 }), (change) => {
        try {
          expect(readManifest({ ...cards.card, ...change }).target).toBeTypeOf("string");
        } catch (e) {
          expect(e).toBeInstanceOf(DemoError);
        }
      }),
    );
  });
});

describe("sha256", () => {
  it.each(cards.sha256)("of $length bytes", ({ length, wanted }) => {
    const message = Uint8Array.from({ length }, (_, i) => 7 * i);
    expect(Buffer.from(sha256(message)).toString("hex")).toBe(wanted);
    const inside = new Uint8Array(length + 9);
    inside.set(message, 5);
    expect(Buffer.from(sha256(inside.subarray(5, 5 + length))).toString("hex")).toBe(wanted);
  });

  it("is the platform's for any bytes", async () => {
    await fc.assert(
      fc.asyncProperty(fc.uint8Array({ maxLength: 300 }), async (message) => {
        const wanted = await webcrypto.subtle.digest("SHA-256", new Uint8Array(message));
        expect(Buffer.from(sha256(message)).equals(Buffer.from(wanted))).toBe(true);
      }),
    );
  });
});

describe("checkFile", () => {
  const manifest = readManifest(cards.card);
  const flipped = content.slice();
  flipped[9]! ^= 4;
  afterEach(() => vi.unstubAllGlobals());

  it.each(["crypto.subtle", "no crypto, as on plain http"])("takes the exported file alone, by %s", async (where) => {
    if (where.startsWith("no")) vi.stubGlobal("crypto", undefined);
    await checkFile(manifest, content.buffer);
    await checkFile({ ...manifest, sha256: manifest.sha256 }, content.slice().buffer);
    await expect(checkFile(manifest, flipped.buffer)).rejects.toThrow("is not the file that was exported: sha256");
    await expect(checkFile(manifest, content.slice(1).buffer)).rejects.toThrow("339 bytes, artifact.json says 340");
  });

  it("takes a digest of the caller's", async () => {
    const asked: number[] = [];
    const digest = async (b: ArrayBuffer) => {
      asked.push(b.byteLength);
      return webcrypto.subtle.digest("SHA-256", b);
    };
    await checkFile(manifest, content.buffer, digest);
    await expect(checkFile(manifest, flipped.buffer, digest)).rejects.toThrow(DemoError);
    expect(asked).toEqual([340, 340]);
  });

  it("reads the sha256 in capitals too", async () => {
    await checkFile(readManifest({ ...cards.card, sha256: manifest.sha256.toUpperCase() }), content.buffer);
  });
});

/** What the person is told: both lines. */
function told(call: () => unknown): string {
  try {
    call();
  } catch (e) {
    if (e instanceof DemoError) return `${e.message}\n${e.hint}`;
    throw e;
  }
  throw new Error("nothing was refused");
}

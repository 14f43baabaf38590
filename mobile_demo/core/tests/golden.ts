/** The golden vectors that tests/mobile/write_golden.py writes, and how their arrays are packed. */
import { readFileSync } from "node:fs";

import type { RgbImage } from "../src/index";

export interface Picture {
  width: number;
  height: number;
  data: string;
}

export function golden<T>(name: string): T {
  return JSON.parse(readFileSync(new URL(`../golden/${name}.json`, import.meta.url), "utf-8")) as T;
}

export function bytes(text: string): Uint8Array<ArrayBuffer> {
  return new Uint8Array(Buffer.from(text, "base64"));
}

export function floats(text: string): Float32Array<ArrayBuffer> {
  return new Float32Array(bytes(text).buffer);
}

export function picture({ width, height, data }: Picture): RgbImage {
  return { width, height, data: bytes(data) };
}

/** How many bytes differ; a difference in size is an error. */
export function differing(got: RgbImage, wanted: RgbImage): number {
  if (got.width !== wanted.width || got.height !== wanted.height || got.data.length !== wanted.data.length) {
    throw new Error(`${got.width} x ${got.height}, not ${wanted.width} x ${wanted.height}`);
  }
  return got.data.reduce((n, value, i) => n + (value === wanted.data[i] ? 0 : 1), 0);
}

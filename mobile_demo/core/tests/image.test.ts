import { describe, expect, it } from "vitest";

import { centerCrop, fromRgba, resize, toInput, toSquare, type Filter, type RgbImage } from "../src/index";
import { bytes, differing, floats, golden, picture, type Picture } from "./golden";

interface Images {
  resize: { name: string; filter: Filter; image: Picture; wanted: Picture }[];
  large: { width: number; height: number; filter: Filter; wanted: Picture }[];
  square: { name: string; preprocess: Card; image: Picture; wanted: Picture }[];
  alpha: { rgba: string; wanted: Picture };
  input: { square: Picture; nchw: string; nhwc: string };
}

interface Card {
  image_size: number;
  crop_ratio: number;
  resize: number;
  interpolation: Filter;
}

const images = golden<Images>("images");

describe("resize is Pillow's to the bit", () => {
  it.each(images.resize)("$filter: $name", ({ filter, image, wanted }) => {
    expect(differing(resize(picture(image), wanted.width, wanted.height, filter), picture(wanted))).toBe(0);
  });

  it.each(images.large)("$filter: a photo of 12 megapixels, in little time", ({ width, height, filter, wanted }) => {
    const photo = large(width, height);
    const start = performance.now();
    const small = resize(photo, wanted.width, wanted.height, filter);
    expect(performance.now() - start).toBeLessThan(10_000); // 0.3 s alone; CI machines are shared
    expect(differing(small, picture(wanted))).toBe(0);
  });

  it("refuses sizes that are none, and pixels that are too few", () => {
    const image = { data: new Uint8Array(12), width: 2, height: 2 };
    expect(() => resize(image, 0, 4, "bilinear")).toThrow(RangeError);
    expect(() => resize(image, 4, 1.5, "bilinear")).toThrow(RangeError);
    expect(() => resize({ ...image, width: 3 }, 4, 4, "bilinear")).toThrow(RangeError);
  });
});

describe("toSquare is the training's to the bit", () => {
  it.each(images.square)("$name, $preprocess.image_size px", ({ preprocess, image, wanted }) => {
    const square = toSquare(picture(image), {
      imageSize: preprocess.image_size,
      cropRatio: preprocess.crop_ratio,
      resize: preprocess.resize,
      interpolation: preprocess.interpolation,
    });
    expect(differing(square, picture(wanted))).toBe(0);
  });
});

it("lays every value under every alpha over white as Pillow does", () => {
  const { rgba, wanted } = images.alpha;
  expect(differing(fromRgba(bytes(rgba), 256, 256), picture(wanted))).toBe(0);
  expect(differing(fromRgba(new Uint8ClampedArray(bytes(rgba)), 256, 256), picture(wanted))).toBe(0);
  expect(() => fromRgba(bytes(rgba), 256, 255)).toThrow(RangeError);
});

it.each(["NCHW", "NHWC"] as const)("feeds the network what training feeds it, %s", (layout) => {
  const { square, nchw, nhwc } = images.input;
  expect(toInput(picture(square), layout)).toEqual(floats(layout === "NCHW" ? nchw : nhwc));
});

it("divides every byte by 255 in float32", () => {
  const ramp = { data: Uint8Array.from({ length: 768 }, (_, i) => i / 3), width: 256, height: 1 };
  const wanted = Float32Array.from({ length: 768 }, (_, i) => Math.fround(Math.floor(i / 3)) / Math.fround(255));
  expect(toInput(ramp, "NHWC")).toEqual(wanted);
});

it("cuts the middle, halves to the even pixel, black outside", () => {
  const row = { data: Uint8Array.from([1, 1, 1, 2, 2, 2, 3, 3, 3, 4, 4, 4]), width: 4, height: 1 };
  const reds = ({ data }: RgbImage) => Array.from(data).filter((_, i) => i % 3 === 0);
  expect(reds(centerCrop(row, 2, 1))).toEqual([2, 3]);
  expect(reds(centerCrop(row, 1, 1))).toEqual([3]); // 1.5 is 2
  expect(reds(centerCrop(row, 3, 1))).toEqual([1, 2, 3]); // 0.5 is 0
  expect(reds(centerCrop(row, 6, 1))).toEqual([0, 1, 2, 3, 4, 0]);
  expect(reds(centerCrop(row, 1, 3))).toEqual([0, 3, 0]);
});

/** The formula of `large` in golden_images.py. */
function large(width: number, height: number): RgbImage {
  const data = new Uint8Array(3 * width * height);
  for (let i = 0; i < data.length; i++) data[i] = Math.imul(i, 2654435761) >>> 24;
  return { data, width, height };
}

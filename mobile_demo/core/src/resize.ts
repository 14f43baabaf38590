/**
 * Resizing bit-exact with Pillow's for 8-bit images; a browser's own differs by 3/255 and moves embeddings.
 *
 * Each output pixel is a weighted mean of input pixels, the filter widened by the scale where the image shrinks
 * (antialiasing). Weights are fixed-point with 22 bits, and the result of the first of the two passes is 8-bit: so
 * their order shows. It is that of Pillow 13; earlier ones always have the horizontal pass first.
 */
/** 3 bytes a pixel, rows top down. */
export interface RgbImage {
  data: Uint8Array;
  width: number;
  height: number;
}

export type Filter = "bilinear" | "bicubic";

const BITS = 22;
const ONE = 2 ** BITS;
const HALF = 2 ** (BITS - 1);

const FILTERS: Record<Filter, { support: number; weight: (x: number) => number }> = {
  bilinear: { support: 1, weight: (x) => Math.max(0, 1 - Math.abs(x)) },
  bicubic: { support: 2, weight: bicubic },
};

function bicubic(x: number): number {
  const a = -0.5;
  x = Math.abs(x);
  if (x < 1) return ((a + 2) * x - (a + 3)) * x * x + 1;
  return x < 2 ? (((x - 5) * x + 8) * x - 4) * a : 0;
}

/** Where each output pixel reads: `count[i]` inputs from `first[i]` on, weighted by `weights[i * width + ...]`. */
interface Taps {
  first: Int32Array;
  count: Int32Array;
  weights: Int32Array;
  width: number;
}

export function resize(image: RgbImage, width: number, height: number, filter: Filter): RgbImage {
  if (image.data.length !== 3 * image.width * image.height) {
    throw new RangeError(`${image.data.length} bytes are not ${image.width} x ${image.height} RGB pixels`);
  }
  if (![width, height].every((side) => Number.isSafeInteger(side) && side >= 1)) {
    throw new RangeError(`${width} x ${height} is no size of an image`);
  }
  if (verticalFirst(image, width, height)) {
    image = vertical(image, height, filter);
    return horizontal(image, width, filter);
  }
  image = horizontal(image, width, filter);
  return vertical(image, height, filter);
}

/** Where the height loses more than twice the pixels that the width does. */
function verticalFirst(image: RgbImage, width: number, height: number): boolean {
  return height < image.height && image.height - height > 2 * (image.width - width);
}

function taps(from: number, to: number, filter: Filter): Taps {
  const scale = from / to;
  const stretch = Math.max(1, scale);
  const { support, weight } = FILTERS[filter];
  const reach = support * stretch;
  const width = 2 * Math.ceil(reach) + 1;
  const found: Taps = {
    first: new Int32Array(to),
    count: new Int32Array(to),
    weights: new Int32Array(to * width),
    width,
  };
  for (let i = 0; i < to; i++) {
    const centre = (i + 0.5) * scale;
    const first = Math.max(0, Math.trunc(centre - reach + 0.5));
    const count = Math.min(from, Math.trunc(centre + reach + 0.5)) - first;
    const exact = Array.from({ length: count }, (_, n) => weight((n + first - centre + 0.5) * (1 / stretch)));
    const sum = exact.reduce((total, w) => total + w, 0);
    exact.forEach((w, n) => {
      const fixed = (sum === 0 ? w : w / sum) * ONE;
      found.weights[i * width + n] = Math.trunc(fixed < 0 ? fixed - 0.5 : fixed + 0.5);
    });
    found.first[i] = first;
    found.count[i] = count;
  }
  return found;
}

function horizontal(image: RgbImage, width: number, filter: Filter): RgbImage {
  const { data, height } = image;
  if (width === image.width) return image;
  const t = taps(image.width, width, filter);
  const out = new Uint8Array(3 * width * height);
  let at = 0;
  for (let y = 0; y < height; y++) {
    for (let x = 0; x < width; x++) {
      let r = HALF;
      let g = HALF;
      let b = HALF;
      let from = 3 * (y * image.width + t.first[x]!);
      const start = x * t.width;
      const end = start + t.count[x]!;
      for (let n = start; n < end; n++) {
        const w = t.weights[n]!;
        r += Math.imul(data[from]!, w);
        g += Math.imul(data[from + 1]!, w);
        b += Math.imul(data[from + 2]!, w);
        from += 3;
      }
      out[at] = clip(r);
      out[at + 1] = clip(g);
      out[at + 2] = clip(b);
      at += 3;
    }
  }
  return { data: out, width, height };
}

function vertical(image: RgbImage, height: number, filter: Filter): RgbImage {
  const { data, width } = image;
  if (height === image.height) return image;
  const t = taps(image.height, height, filter);
  const row = 3 * width;
  const out = new Uint8Array(row * height);
  for (let y = 0; y < height; y++) {
    const start = y * t.width;
    const count = t.count[y]!;
    for (let x = 0; x < row; x++) {
      let sum = HALF;
      let from = t.first[y]! * row + x;
      for (let n = start; n < start + count; n++) {
        sum += Math.imul(data[from]!, t.weights[n]!);
        from += row;
      }
      out[y * row + x] = clip(sum);
    }
  }
  return { data: out, width, height };
}

function clip(sum: number): number {
  const value = sum >> BITS;
  return value < 0 ? 0 : value > 255 ? 255 : value;
}

/** Pixels as the network takes them: to the bit what lowdino_edge/data does with Pillow. */
import type { Preprocess } from "./manifest";
import { roundHalfEven } from "./numbers";
import { type RgbImage, resize } from "./resize";

export type { RgbImage };

const STRIP = 16; // longer side over the shorter
const SCALED = Float32Array.from({ length: 256 }, (_, i) => i / 255);

/** Transparency laid over white, as lowdino_edge/data/decode.py. */
export function fromRgba(rgba: Uint8ClampedArray | Uint8Array, width: number, height: number): RgbImage {
  const n = width * height;
  if (rgba.length !== 4 * n) throw new RangeError(`${rgba.length} bytes are not ${width} x ${height} RGBA pixels`);
  const data = new Uint8Array(3 * n);
  for (let i = 0; i < n; i++) {
    const alpha = rgba[4 * i + 3]!;
    for (let c = 0; c < 3; c++) data[3 * i + c] = overWhite(rgba[4 * i + c]!, alpha);
  }
  return { data, width, height };
}

/** Rounded as Pillow rounds it: the division by 255 is a shift that is off by one in places. */
function overWhite(value: number, alpha: number): number {
  const sum = value * alpha + 255 * (255 - alpha) + 128;
  return (128 * sum + (sum >> 1)) >> 15;
}

/** The middle of an image; what lies outside of it is black. */
export function centerCrop(image: RgbImage, width: number, height: number): RgbImage {
  const left = roundHalfEven((image.width - width) / 2);
  const top = roundHalfEven((image.height - height) / 2);
  const data = new Uint8Array(3 * width * height);
  const from = Math.max(0, left);
  const to = Math.min(image.width, left + width);
  for (let y = Math.max(0, -top); y < Math.min(height, image.height - top) && from < to; y++) {
    const row = (y + top) * image.width;
    data.set(image.data.subarray(3 * (row + from), 3 * (row + to)), 3 * (y * width + from - left));
  }
  return { data, width, height };
}

/**
 * One image as the network takes it, square: the shorter side resized to `preprocess.resize`, then the centre.
 *
 * Of a strip longer than 16 to 1 only the middle is looked at, so that its resized copy does not fill the memory.
 */
export function toSquare(image: RgbImage, preprocess: Preprocess): RgbImage {
  const short = Math.min(image.width, image.height);
  const most = STRIP * short;
  if (Math.max(image.width, image.height) > most) {
    image = centerCrop(image, Math.min(image.width, most), Math.min(image.height, most));
  }
  if (short !== preprocess.resize) {
    const side = (x: number) => (x === short ? preprocess.resize : Math.trunc((preprocess.resize * x) / short));
    image = resize(image, side(image.width), side(image.height), preprocess.interpolation);
  }
  return centerCrop(image, preprocess.imageSize, preprocess.imageSize);
}

/** The square as a network's input, RGB in [0, 1]. */
export function toInput(square: RgbImage, layout: "NHWC" | "NCHW"): Float32Array<ArrayBuffer> {
  const { data } = square;
  const n = square.width * square.height;
  const input = new Float32Array(3 * n);
  if (layout === "NHWC") {
    for (let i = 0; i < 3 * n; i++) input[i] = SCALED[data[i]!]!;
  } else {
    for (let i = 0; i < n; i++) for (let c = 0; c < 3; c++) input[c * n + i] = SCALED[data[3 * i + c]!]!;
  }
  return input;
}

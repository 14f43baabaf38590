/** What the camera hands over, as the RGB image that core takes. Pure: no camera here. */
import { DemoError, type RgbImage } from "@lowdino/core";

export type Orientation = "up" | "right" | "down" | "left";

/** One frame, copied out of the camera's memory. */
export interface RawFrame {
  bytes: Uint8Array;
  width: number; // as stored, before it is turned upright
  height: number;
  bytesPerRow: number; // rows may be padded
  format: string; // VisionCamera's PixelFormat
  orientation: Orientation; // how the stored pixels are turned against the upright picture
  mirrored: boolean; // the stored pixels are to be read from right to left
}

interface Packing {
  size: number; // bytes a pixel
  red: number;
  green: number;
  blue: number;
}

/** The upright RGB image of a frame. Throws DemoError where its pixels are not RGB, or not all there. */
export function toRgb(frame: RawFrame): RgbImage {
  const { bytes, width, height, bytesPerRow } = frame;
  const { size, red, green, blue } = packing(frame);
  if (bytesPerRow < size * width || bytes.length < bytesPerRow * (height - 1) + size * width) {
    throw new DemoError(`the camera's frame is cut short: ${bytes.length} bytes for ${width} x ${height}`, "try again");
  }
  const { start, right, down, columns, rows } = walk(frame, size);
  const data = new Uint8Array(3 * columns * rows);
  let at = 0;
  for (let y = 0; y < rows; y++) {
    let from = start + y * down;
    for (let x = 0; x < columns; x++, from += right) {
      data[at++] = bytes[from + red]!;
      data[at++] = bytes[from + green]!;
      data[at++] = bytes[from + blue]!;
    }
  }
  return { data, width: columns, height: rows };
}

/** Alpha is left out: a camera's pixels are opaque. */
function packing({ format, bytesPerRow, width }: RawFrame): Packing {
  if (format === "rgb-bgra-8-bit") return { size: 4, red: 2, green: 1, blue: 0 };
  if (format === "rgb-rgba-8-bit") return { size: 4, red: 0, green: 1, blue: 2 };
  const three = bytesPerRow < 4 * width; // RGB, otherwise RGBX: VisionCamera has one name for both
  if (format === "rgb-rgb-8-bit") return { size: three ? 3 : 4, red: 0, green: 1, blue: 2 };
  throw new DemoError(`the camera gives '${format}' pixels, not RGB`, "try the other camera of this phone");
}

/** Where the upright image's first pixel lies in memory, and the steps to the next one to the right and below. */
function walk(frame: RawFrame, size: number) {
  const { width, height, bytesPerRow, orientation, mirrored } = frame;
  const corner = (x: number, y: number) => x * size + y * bytesPerRow;
  const turned = orientation === "right" || orientation === "left";
  const columns = turned ? height : width;
  const rows = turned ? width : height;
  let step: { start: number; right: number; down: number };
  switch (orientation) {
    case "up":
      step = { start: 0, right: size, down: bytesPerRow };
      break;
    case "down":
      step = { start: corner(width - 1, height - 1), right: -size, down: -bytesPerRow };
      break;
    case "right": // turned clockwise: the upright top left lies at the top right
      step = { start: corner(width - 1, 0), right: bytesPerRow, down: -size };
      break;
    case "left":
      step = { start: corner(0, height - 1), right: -bytesPerRow, down: size };
      break;
  }
  if (mirrored) step = { start: step.start + (columns - 1) * step.right, right: -step.right, down: step.down };
  return { ...step, columns, rows };
}

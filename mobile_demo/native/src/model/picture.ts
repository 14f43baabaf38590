import { resize, toInput, toSquare, type Preprocess, type RgbImage } from "@lowdino/core";

import { toRgb, type RawFrame } from "../camera/pixels";
import { pngDataUrl } from "./png";

const THUMBNAIL = 48; // pixels

/** A frame as the network takes it. The square is what it sees, so the thumbnail is made of it too. */
export function prepare(frame: RawFrame, preprocess: Preprocess): { square: RgbImage; input: Float32Array } {
  const square = toSquare(toRgb(frame), preprocess);
  return { square, input: toInput(square, "NCHW") };
}

export function thumbnail(square: RgbImage): string {
  return pngDataUrl(resize(square, THUMBNAIL, THUMBNAIL, "bilinear"));
}

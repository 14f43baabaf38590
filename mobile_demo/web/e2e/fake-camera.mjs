// A film for Chromium's fake camera: three things, each seen for a few seconds, moving a little all the time.
import { writeFileSync } from "node:fs";

const WIDTH = 320;
const HEIGHT = 240;
const FPS = 5;
const SECONDS = 8;

/** What each thing looks like at a pixel, RGB; `t` is the frame. Red, blue or green prevails, which tells them apart. */
export const THINGS = {
  red: (x, y, t) => (((x + 3 * t) >> 4) % 2 ? [214, 40, 40] : [252, 226, 196]),
  blue: (x, y, t) => {
    const [u, v] = [((x + t) % 80) - 40, ((y + 2 * t) % 80) - 40];
    return u * u + v * v < 650 ? [250, 230, 120] : [30, 60, 200];
  },
  green: (x, y, t) => (((((x + t) / 28) | 0) + (((y - t + 400) / 28) | 0)) % 2 ? [20, 150, 60] : [8, 40, 20]),
};

export function writeFilm(path) {
  const frames = [];
  const head = Buffer.from(`YUV4MPEG2 W${WIDTH} H${HEIGHT} F${FPS}:1 Ip A1:1 C420jpeg\n`);
  for (const thing of Object.values(THINGS))
    for (let t = 0; t < FPS * SECONDS; t++) frames.push(Buffer.from("FRAME\n"), frame(thing, t));
  writeFileSync(path, Buffer.concat([head, ...frames]));
}

/** Planar YCbCr, chroma at half size. */
function frame(thing, t) {
  const luma = WIDTH * HEIGHT;
  const out = Buffer.alloc((luma * 3) / 2);
  for (let y = 0; y < HEIGHT; y++)
    for (let x = 0; x < WIDTH; x++) {
      const [r, g, b] = thing(x, y, t);
      out[y * WIDTH + x] = 0.299 * r + 0.587 * g + 0.114 * b;
      if (x % 2 || y % 2) continue;
      const at = luma + (y / 2) * (WIDTH / 2) + x / 2;
      out[at] = 128 - 0.1687 * r - 0.3313 * g + 0.5 * b;
      out[at + luma / 4] = 128 + 0.5 * r - 0.4187 * g - 0.0813 * b;
    }
  return out;
}

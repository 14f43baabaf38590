import { DemoError, toInput, toSquare, type Preprocess } from "@lowdino/core";

import { toRgb, type Orientation, type RawFrame } from "../src/camera/pixels";
import { prepare } from "../src/model/picture";

// The upright picture: 3 wide, 2 high; red tells the place.
const UPRIGHT = [
  [11, 12, 13],
  [21, 22, 23],
];
// The same as a camera stores it; "right" is turned clockwise.
const STORED: Record<Orientation, number[][]> = {
  up: UPRIGHT,
  down: [
    [23, 22, 21],
    [13, 12, 11],
  ],
  right: [
    [21, 11],
    [22, 12],
    [23, 13],
  ],
  left: [
    [13, 23],
    [12, 22],
    [11, 21],
  ],
};

function frameOf(reds: number[][], change: Partial<RawFrame> = {}, order = [2, 1, 0, 3], pad = 5): RawFrame {
  const height = reds.length;
  const width = reds[0]!.length;
  const bytesPerRow = width * order.length + pad;
  const bytes = new Uint8Array(bytesPerRow * height).fill(200);
  reds.forEach((row, y) =>
    row.forEach((red, x) => {
      const rgba = [red, red + 100, red + 50, 255];
      order.forEach((channel, i) => (bytes[y * bytesPerRow + x * order.length + i] = rgba[channel]!));
    }),
  );
  return { bytes, width, height, bytesPerRow, format: "rgb-bgra-8-bit", orientation: "up", mirrored: false, ...change };
}

const rgbOf = (reds: number[][]) => reds.flat().flatMap((red) => [red, red + 100, red + 50]);

test.each(Object.keys(STORED) as Orientation[])("a frame stored '%s' comes out upright", (orientation) => {
  const image = toRgb(frameOf(STORED[orientation], { orientation }));
  expect([image.width, image.height]).toEqual([3, 2]);
  expect(Array.from(image.data)).toEqual(rgbOf(UPRIGHT));
});

test.each(Object.keys(STORED) as Orientation[])(
  "a mirrored frame stored '%s' is read from right to left",
  (orientation) => {
    const image = toRgb(frameOf(STORED[orientation], { orientation, mirrored: true }));
    expect(Array.from(image.data)).toEqual(rgbOf(UPRIGHT.map((row) => [...row].reverse())));
  },
);

test.each([
  ["rgb-rgba-8-bit", [0, 1, 2, 3], 0],
  ["rgb-rgb-8-bit", [0, 1, 2], 0],
  ["rgb-rgb-8-bit", [0, 1, 2, 3], 8], // RGBX
] as const)("%s with %j", (format, order, pad) => {
  expect(Array.from(toRgb(frameOf(UPRIGHT, { format }, [...order], pad)).data)).toEqual(rgbOf(UPRIGHT));
});

test("what is no RGB, or not all there, is refused", () => {
  expect(() => toRgb(frameOf(UPRIGHT, { format: "yuv-420-8-bit-full" }))).toThrow(DemoError);
  const whole = frameOf(UPRIGHT, {}, undefined, 0);
  expect(() => toRgb({ ...whole, bytes: whole.bytes.subarray(1) })).toThrow(/cut short/);
  expect(() => toRgb({ ...whole, bytesPerRow: 11 })).toThrow(/cut short/);
});

test("the network's input is core's, bit for bit", () => {
  const reds = Array.from({ length: 37 }, (_, y) => Array.from({ length: 53 }, (_, x) => (x * x + 3 * y) % 150));
  const preprocess: Preprocess = { imageSize: 16, cropRatio: 0.875, resize: 18, interpolation: "bicubic" };
  const image = { data: Uint8Array.from(rgbOf(reds)), width: 53, height: 37 };
  expect(prepare(frameOf(reds), preprocess).input).toEqual(toInput(toSquare(image, preprocess), "NCHW"));
});

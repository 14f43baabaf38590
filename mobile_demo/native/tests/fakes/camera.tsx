/**
 * Stand-in for VisionCamera: while a camera is on screen and active, frames of the scene come as a phone's do: BGRA,
 * rows padded, lying on their side. The pixel buffer is overwritten on dispose(), as the camera reuses it.
 */
import { useEffect } from "react";
import { View } from "react-native";

type Colour = [number, number, number];
type OnFrame = (frame: object) => void;

export const scene: { colour: Colour; format: string; permission: "granted" | "ask" | "denied" } = {
  colour: [0, 0, 0],
  format: "rgb-bgra-8-bit",
  permission: "granted",
};
export const frames = { made: 0, disposed: 0 };

const WIDTH = 40;
const HEIGHT = 30;
const BYTES_PER_ROW = 4 * WIDTH + 16;

export function useFrameOutput({ onFrame }: { onFrame: OnFrame }) {
  return { onFrame };
}

export function useCameraDevice(side: string) {
  return side === "back" ? { id: "back" } : undefined;
}

export function useCameraPermission() {
  return {
    hasPermission: scene.permission === "granted",
    canRequestPermission: scene.permission === "ask",
    requestPermission: async () => true,
  };
}

export function Camera({ isActive, outputs }: { isActive: boolean; outputs: { onFrame: OnFrame }[] }) {
  useEffect(() => {
    if (!isActive) return;
    const timer = setInterval(() => outputs.forEach((output) => output.onFrame(frame())), 3);
    return () => clearInterval(timer);
  }, [isActive, outputs]);
  return <View testID="camera" />;
}

function frame() {
  frames.made++;
  const [red, green, blue] = scene.colour;
  const pixels = new Uint8Array(BYTES_PER_ROW * HEIGHT).fill(99);
  for (let y = 0; y < HEIGHT; y++) {
    for (let x = 0; x < WIDTH; x++) pixels.set([blue, green, red, 255], y * BYTES_PER_ROW + 4 * x);
  }
  return {
    width: WIDTH,
    height: HEIGHT,
    bytesPerRow: BYTES_PER_ROW,
    pixelFormat: scene.format,
    orientation: "right",
    isMirrored: false,
    isPlanar: scene.format.startsWith("yuv"),
    hasPixelBuffer: true,
    getPixelBuffer: () => pixels.buffer,
    dispose() {
      frames.disposed++;
      pixels.fill(7);
    },
  };
}

/** VisionCamera's frames, brought from its thread to ours when they are asked for. */
import { DemoError } from "@lowdino/core";
import { useEffect, useMemo } from "react";
import { useFrameOutput, type CameraFrameOutput, type Frame } from "react-native-vision-camera";
import { createSynchronizable, scheduleOnRN } from "react-native-worklets";

import { Mailbox } from "./mailbox";
import type { RawFrame } from "./pixels";

// Enough for the networks of this project (up to 256 pixels), and little to carry over and to resize.
const TARGET = { width: 640, height: 480 };

export interface Frames {
  output: CameraFrameOutput;
  grab(): Promise<RawFrame>;
}

export function useFrames(): Frames {
  const wanted = useMemo(() => createSynchronizable(false), []);
  const mailbox = useMemo(() => new Mailbox((yes) => wanted.setBlocking(yes)), [wanted]);
  useEffect(() => () => mailbox.fail(new DemoError("the camera was closed", "open it again")), [mailbox]);

  const onFrame = useMemo(() => {
    const deliver = (frame: RawFrame) => mailbox.deliver(frame);
    const refuse = (what: string) => mailbox.fail(new DemoError(what, "try the other camera of this phone"));
    return (frame: Frame) => {
      "worklet";
      try {
        if (!wanted.getBlocking()) return;
        wanted.setBlocking(false);
        if (frame.isPlanar || !frame.hasPixelBuffer) {
          scheduleOnRN(refuse, `the camera gives '${frame.pixelFormat}' pixels, not RGB`);
          return;
        }
        scheduleOnRN(deliver, {
          bytes: new Uint8Array(frame.getPixelBuffer()).slice(), // the buffer is the camera's again after dispose()
          width: frame.width,
          height: frame.height,
          bytesPerRow: frame.bytesPerRow,
          format: frame.pixelFormat,
          orientation: frame.orientation,
          mirrored: frame.isMirrored,
        });
      } catch (error) {
        scheduleOnRN(refuse, `the camera's frame cannot be read: ${String(error)}`);
      } finally {
        frame.dispose(); // or the camera stalls
      }
    };
  }, [mailbox, wanted]);

  const output = useFrameOutput({
    targetResolution: TARGET,
    pixelFormat: "rgb",
    dropFramesWhileBusy: true,
    onFrame,
    onFrameDropped: ignore,
  });
  return useMemo(() => ({ output, grab: () => mailbox.next() }), [output, mailbox]);
}

/** Frames come faster than they are wanted: a dropped one is no news. */
function ignore(): void {}

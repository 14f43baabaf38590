import { Mailbox } from "../src/camera/mailbox";
import type { RawFrame } from "../src/camera/pixels";

const FRAME: RawFrame = {
  bytes: new Uint8Array(4),
  width: 1,
  height: 1,
  bytesPerRow: 4,
  format: "rgb-bgra-8-bit",
  orientation: "up",
  mirrored: false,
};

function mailbox() {
  const asked: boolean[] = [];
  return { box: new Mailbox((wanted) => asked.push(wanted)), asked };
}

test("the camera is asked for one frame, and both who wait get it", async () => {
  const { box, asked } = mailbox();
  const both = Promise.all([box.next(), box.next()]);
  box.deliver(FRAME);
  expect(await both).toEqual([FRAME, FRAME]);
  expect(asked).toEqual([true, false]);
});

test("a frame that nobody waits for is no trouble", async () => {
  const { box } = mailbox();
  box.deliver(FRAME);
  const next = box.next();
  box.deliver({ ...FRAME, width: 2 });
  expect((await next).width).toBe(2);
});

test("a camera that stays dark is named after five seconds", async () => {
  jest.useFakeTimers();
  try {
    const { box, asked } = mailbox();
    const next = box.next();
    jest.advanceTimersByTime(5000);
    await expect(next).rejects.toThrow("the camera gives no picture");
    expect(asked).toEqual([true, false]);
  } finally {
    jest.useRealTimers();
  }
});

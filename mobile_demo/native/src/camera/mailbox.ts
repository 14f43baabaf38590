/** One frame on request, instead of a stream of them: the next frame that arrives answers whoever asked. */
import { DemoError } from "@lowdino/core";

import type { RawFrame } from "./pixels";

const PATIENCE_MS = 5000;

export class Mailbox {
  #waiting: { promise: Promise<RawFrame>; resolve(frame: RawFrame): void; reject(error: unknown): void } | null = null;
  #timer: ReturnType<typeof setTimeout> | undefined;

  /** @param ask tells the camera's thread that a frame is wanted, or no more. */
  constructor(private readonly ask: (wanted: boolean) => void) {}

  /** Two who ask at once get the same frame. */
  next(): Promise<RawFrame> {
    if (this.#waiting) return this.#waiting.promise;
    let resolve!: (frame: RawFrame) => void;
    let reject!: (error: unknown) => void;
    const promise = new Promise<RawFrame>((yes, no) => {
      resolve = yes;
      reject = no;
    });
    this.#waiting = { promise, resolve, reject };
    this.#timer = setTimeout(() => {
      this.fail(new DemoError("the camera gives no picture", "close other apps that use the camera, then come back"));
    }, PATIENCE_MS);
    this.ask(true);
    return promise;
  }

  deliver(frame: RawFrame): void {
    this.#close()?.resolve(frame);
  }

  fail(error: unknown): void {
    this.#close()?.reject(error);
  }

  #close() {
    const waiting = this.#waiting;
    this.#waiting = null;
    clearTimeout(this.#timer);
    this.ask(false);
    return waiting;
  }
}

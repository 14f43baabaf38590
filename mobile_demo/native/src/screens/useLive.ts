/** Looks, embeds and votes, again and again while it is on; one picture at a time. */
import { useEffect, useState } from "react";

import type { RawFrame } from "../camera/pixels";
import { prepare } from "../model/picture";
import type { Active } from "../session";
import { recognise, type Answer } from "../store/recognise";

export interface Sight {
  answer: Answer;
  prepareMs: number; // turning, resizing and cropping the picture
  embedMs: number; // the network, its thread's hop counted
}

export function useLive(
  active: Active,
  on: boolean,
  grab: () => Promise<RawFrame>,
  stop: (error: unknown) => void,
): Sight | null {
  const [sight, setSight] = useState<Sight | null>(null);
  useEffect(() => {
    if (!on) return;
    let alive = true;
    const look = async () => {
      while (alive) {
        const next = await seeOnce(active, grab);
        if (alive) setSight(next);
        await new Promise((done) => setTimeout(done, 0)); // taps and drawing have their turn
      }
    };
    look().catch((error: unknown) => {
      if (alive) stop(error);
    });
    return () => {
      alive = false;
    };
  }, [active, on, grab, stop]);
  return on ? sight : null;
}

export async function seeOnce({ manifest, embedder, store }: Active, grab: () => Promise<RawFrame>): Promise<Sight> {
  const frame = await grab();
  const start = performance.now();
  const { input } = prepare(frame, manifest.preprocess);
  const prepared = performance.now();
  const embedding = await embedder.embed(input);
  const embedded = performance.now();
  return { answer: recognise(store, embedding), prepareMs: prepared - start, embedMs: embedded - prepared };
}

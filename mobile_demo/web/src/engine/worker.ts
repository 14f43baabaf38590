// The inference worker: preprocessing and the network, away from the page, so that nothing a finger does ever waits.
// Bundled as a classic script; LiteRT.js does not start in a module worker.
import { DemoError, type Preprocess, fromRgba, toInput, toSquare } from "@lowdino/core";
import { bench } from "./bench";
import { Network, start, text } from "./litert";
import type { Embedded, FromPage, FromWorker, Step } from "./messages";

interface Scope {
  onmessage: ((event: MessageEvent<FromPage>) => void) | null;
  postMessage(message: FromWorker, transfer?: Transferable[]): void;
}

const scope = self as unknown as Scope;
let network: Network | null = null;

/** One question after the other: LiteRT.js has one heap, and timings must not overlap. */
let queue: Promise<void> = Promise.resolve();
scope.onmessage = ({ data }) => {
  queue = queue.then(() => answer(data));
};

async function answer(ask: FromPage): Promise<void> {
  const { id } = ask;
  try {
    const value = await handle(ask, (step) => scope.postMessage({ id, kind: "step", step }));
    scope.postMessage({ id, kind: "answer", value });
  } catch (e) {
    const hint = e instanceof DemoError ? e.hint : "reload the page and try again";
    scope.postMessage({ id, kind: "trouble", trouble: { what: text(e), hint } });
  }
}

async function handle(ask: FromPage, step: (s: Step) => void): Promise<unknown> {
  switch (ask.op) {
    case "init":
      return start(ask.folder, ask.gpu);
    case "load": {
      const next = await Network.load(ask.bytes, ask.shape, ask.dim, ask.backend);
      network?.delete();
      network = next;
      return null;
    }
    case "embed":
      return embed(ask.rgba, ask.width, ask.height, ask.preprocess);
    case "input":
      return run(ask.input);
    case "bench":
      return bench(ask.plan, step);
  }
}

async function embed(rgba: ArrayBuffer, width: number, height: number, preprocess: Preprocess): Promise<Embedded> {
  const begin = performance.now();
  const square = toSquare(fromRgba(new Uint8ClampedArray(rgba), width, height), preprocess);
  const input = toInput(square, "NHWC");
  const ready = performance.now();
  const embedding = await run(input);
  return { embedding, prepareMs: ready - begin, networkMs: performance.now() - ready };
}

async function run(input: Float32Array): Promise<Float32Array> {
  if (network === null) throw new DemoError("no model is loaded", "choose one on the Model page");
  return network.run(input);
}

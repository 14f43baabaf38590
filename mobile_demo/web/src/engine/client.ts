// The page's side of the inference worker: questions with promises for answers.
import { type Backend, DemoError, type Manifest, type Preprocess } from "@lowdino/core";
import type { Ask, BenchPlan, Embedded, FromWorker, Measured, Step } from "./messages";

interface Waiting {
  resolve(value: unknown): void;
  reject(error: unknown): void;
  step?: ((s: Step) => void) | undefined;
}

export class Engine {
  private readonly worker: Worker;
  private readonly waiting = new Map<number, Waiting>();
  private next = 1;
  private readonly ready: Promise<unknown>;

  /** @param gpu whether the runtime may ask for a WebGPU device. The live app needs none. */
  constructor(gpu = false) {
    this.worker = new Worker(new URL("./worker.ts", import.meta.url), { name: "lowdino" });
    this.worker.onmessage = (event: MessageEvent<FromWorker>) => this.take(event.data);
    this.worker.onerror = (event) => {
      event.preventDefault();
      this.stop(
        new DemoError(`the inference worker stopped: ${event.message ?? "it did not start"}`, "reload the page"),
      );
    };
    this.ready = this.ask({ op: "init", folder: new URL(`${__LITERT_FOLDER__}/`, document.baseURI).href, gpu });
    this.ready.catch(() => {}); // told to whoever asks first
  }

  async load(manifest: Manifest, bytes: ArrayBuffer, backend: Backend = "wasm"): Promise<void> {
    await this.ready;
    await this.ask({ op: "load", bytes, shape: manifest.input.shape, dim: manifest.embedDim, backend }, [bytes]);
  }

  /** The embedding of a picture. Its pixels move to the worker and are gone here. */
  async embed(image: ImageData, preprocess: Preprocess): Promise<Embedded> {
    const { width, height } = image;
    const rgba = image.data.buffer as ArrayBuffer;
    return (await this.ask({ op: "embed", rgba, width, height, preprocess }, [rgba])) as Embedded;
  }

  /** The embedding of float NHWC pixels in [0, 1], as they are. */
  async embedInput(input: Float32Array): Promise<Float32Array> {
    return (await this.ask({ op: "input", input })) as Float32Array;
  }

  async bench(plan: BenchPlan, step: (s: Step) => void): Promise<Measured[]> {
    await this.ready;
    return (await this.ask({ op: "bench", plan }, [], step)) as Measured[];
  }

  /** Ends the worker; whatever still waits is refused with `reason`. */
  stop(reason: Error): void {
    this.worker.terminate();
    for (const w of this.waiting.values()) w.reject(reason);
    this.waiting.clear();
  }

  private ask(question: Ask, transfer: Transferable[] = [], step?: (s: Step) => void): Promise<unknown> {
    const id = this.next++;
    return new Promise((resolve, reject) => {
      this.waiting.set(id, { resolve, reject, step });
      this.worker.postMessage({ ...question, id }, transfer);
    });
  }

  private take(message: FromWorker): void {
    const waiting = this.waiting.get(message.id);
    if (waiting === undefined) return;
    if (message.kind === "step") return waiting.step?.(message.step);
    this.waiting.delete(message.id);
    if (message.kind === "answer") waiting.resolve(message.value);
    else waiting.reject(new DemoError(message.trouble.what, message.trouble.hint));
  }
}

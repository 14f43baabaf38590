// One network on LiteRT.js, float32 in and out. Runs inside the classic worker only.
import { type CompiledModel, Tensor, getGlobalLiteRt, loadAndCompile, loadLiteRt } from "@litertjs/core";
import { type Backend, DemoError } from "@lowdino/core";

// Emscripten's loader reads this global. Without it the wasm is looked for beside the worker's own script.
declare const self: { Module?: { locateFile: (name: string) => string; printErr: (line: string) => void } };

export async function start(folder: string, gpu: boolean): Promise<void> {
  self.Module = { locateFile: (name) => folder + name, printErr: log };
  const silenced = console.warn;
  if (!gpu) {
    // LiteRT opens a GPU device wherever it can, and warns where it cannot. Who only computes on the CPU needs neither.
    Object.defineProperty(navigator, "gpu", { value: undefined, configurable: true });
    console.warn = () => {};
  }
  try {
    await loadLiteRt(folder);
  } catch (e) {
    throw new DemoError(
      `the LiteRT runtime did not start: ${text(e)}`,
      "reload the page; WebAssembly with SIMD is needed",
    );
  } finally {
    console.warn = silenced;
  }
}

/** LiteRT writes its whole log to stderr, which a browser shows as errors. */
function log(line: string): void {
  if (/^(INFO|WARNING|Created)/.test(line)) console.debug(line);
  else console.error(line);
}

export class Network {
  private constructor(
    private readonly model: CompiledModel,
    private readonly shape: number[],
    private readonly dim: number,
  ) {}

  static async load(bytes: ArrayBuffer, shape: number[], dim: number, backend: Backend): Promise<Network> {
    if (backend === "webgpu" && !getGlobalLiteRt().getWebGpuDevice())
      throw new DemoError("this browser gives no WebGPU device", "use the WASM backend");
    let model: CompiledModel;
    try {
      model = await loadAndCompile(new Uint8Array(bytes), { accelerator: backend });
    } catch (e) {
      if (e instanceof WebAssembly.RuntimeError) throw e;
      throw new DemoError(
        `LiteRT does not load this file: ${text(e)}`,
        "export it again with `lowdino export --target tflite`",
      );
    }
    const network = new Network(model, shape, dim);
    try {
      network.check(backend);
    } catch (e) {
      network.delete();
      throw e;
    }
    return network;
  }

  /** A GPU run that LiteRT quietly moved to the CPU must never be called a GPU run. */
  private check(backend: Backend): void {
    if (backend === "webgpu" && (this.model.options.accelerator !== "webgpu" || !this.model.isFullyAccelerated))
      throw new DemoError("WebGPU does not take every operator of this model", "use the WASM backend");
    const [input] = this.model.getInputDetails();
    if (input === undefined || input.dtype !== "float32" || [...input.shape].join() !== this.shape.join())
      throw new DemoError(
        `the model file takes ${input?.dtype} [${input === undefined ? "" : [...input.shape].join()}], ` +
          `its artifact.json says float32 [${this.shape.join()}]`,
        "export it again with `lowdino export --target tflite`",
      );
  }

  async run(input: Float32Array): Promise<Float32Array> {
    const tensor = new Tensor(input, this.shape);
    try {
      const outputs = await this.model.run([tensor]);
      const first = outputs[0];
      if (first === undefined) throw new DemoError("the model gives no output", "export it again");
      const data = (await first.data()) as Float32Array;
      for (const o of outputs) o.delete();
      if (data.length !== this.dim)
        throw new DemoError(
          `the model gives ${data.length} numbers, its artifact.json says ${this.dim}`,
          "export it again",
        );
      return data;
    } finally {
      tensor.delete();
    }
  }

  delete(): void {
    this.model.delete();
  }
}

export function text(e: unknown): string {
  return e instanceof Error ? e.message : String(e);
}

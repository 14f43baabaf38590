/** One `.pte` in memory, run by react-native-executorch on its own thread. Pictures are prepared by core, not by it. */
import { DemoError, type Manifest } from "@lowdino/core";
import {
  createResourceScope,
  getRegisteredBackends,
  isRnExecuTorchError,
  loadModel,
  schema,
  setTelemetryEnabled,
  tensor,
  wrapAsync,
} from "react-native-executorch";

setTelemetryEnabled(false); // nothing is downloaded here, so nothing would be sent; off all the same

export const RUNTIME = "react-native-executorch 0.10.2";

export interface Embedder {
  readonly loadMs: number;
  readonly delegates: readonly string[];
  embed(input: Float32Array): Promise<Float32Array>;
  /** Runs the network on the picture it was given last; milliseconds on its own thread, copies left out. */
  timedForward(): Promise<number>;
  dispose(): void;
}

/** @param path of the `.pte`, a file system path or a file:// address. The file must have been checked before. */
export async function createEmbedder(path: string, manifest: Manifest): Promise<Embedder> {
  const scope = createResourceScope();
  try {
    const start = performance.now();
    const model = scope.track(await load(decodeURIComponent(path.replace(/^file:\/\//, ""))));
    const loadMs = performance.now() - start;
    const { imageSize: side } = manifest.preprocess;
    const { method, f32 } = schema;
    schema.validateSpec(model.schema, {
      embedding: method("forward", [f32(1, 3, side, side)], [f32(1, manifest.embedDim)]),
    });
    const input = scope.track(tensor("float32", [1, 3, side, side], new Float32Array(3 * side * side)));
    const output = scope.track(tensor("float32", [1, manifest.embedDim]));

    const embed = wrapAsync((values: Float32Array) => {
      "worklet";
      input.setData(values);
      model.execute("forward", [input], [output]);
      return output.getData(new Float32Array(output.numel));
    });
    const timedForward = wrapAsync(() => {
      "worklet";
      const begin = performance.now();
      model.execute("forward", [input], [output]);
      return performance.now() - begin;
    });
    return { loadMs, delegates: model.backends["forward"] ?? [], embed, timedForward, dispose: scope.dispose };
  } catch (error) {
    scope.dispose();
    throw error;
  }
}

async function load(path: string) {
  try {
    return await wrapAsync(loadModel)(path);
  } catch (error) {
    if (!isRnExecuTorchError(error, "LOAD_FAILED")) throw error;
    const known = getRegisteredBackends().join(", ") || "none";
    throw new DemoError(
      `ExecuTorch cannot load this file: ${error.message}`,
      `export the executorch target again; this build of the app has the backends: ${known}`,
    );
  }
}

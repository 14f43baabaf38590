/**
 * Stand-in for ExecuTorch's C++: the global that react-native-executorch calls. All TypeScript of that package runs
 * for real. A "model" is a JSON file {side, dim}; its network is the mean colour of each quarter of the picture.
 */
import { readFileSync } from "node:fs";

interface FakeTensor {
  dtype: string;
  shape: number[];
  numel: number;
  data: Float32Array;
  setData(source: Float32Array): FakeTensor;
  getData(target: Float32Array): Float32Array;
  dispose(): void;
}

export const alive = new Set<object>(); // what was allocated and not yet disposed
export const calls = { forward: 0 };
export const FORWARD_MS = 2; // the fake network's time, so that a benchmark has something to measure

function failure(code: string, message: string): Error {
  return Object.assign(new Error(message), { name: "RnExecuTorchError", code });
}

function createTensor(shape: number[], dtype: string): FakeTensor {
  const numel = shape.reduce((a, b) => a * b, 1);
  const made: FakeTensor = {
    dtype,
    shape,
    numel,
    data: new Float32Array(numel),
    setData(source) {
      if (!alive.has(made)) throw failure("RESOURCE_DISPOSED", "the tensor is disposed");
      if (source.length !== numel) throw failure("INVALID_ARGUMENT", `${source.length} numbers for ${numel}`);
      made.data.set(source);
      return made;
    },
    getData(target) {
      if (target.length !== numel) throw failure("INVALID_ARGUMENT", `${target.length} numbers for ${numel}`);
      target.set(made.data);
      return target;
    },
    dispose: () => void alive.delete(made),
  };
  alive.add(made);
  return made;
}

function loadModel(path: string) {
  let side: number, dim: number;
  try {
    ({ side, dim } = JSON.parse(readFileSync(path, "utf8")));
  } catch {
    throw failure("LOAD_FAILED", "loadModel: Failed to load: invalid program");
  }
  const spec = (shape: number[]) => ({
    kind: "Tensor",
    dtype: "float32",
    shape: shape.map((value) => ({ kind: "constant", value })),
  });
  const model = {
    path,
    schema: { forward: { inputs: [spec([1, 3, side, side])], outputs: [spec([1, dim])], runtimeConstraints: [] } },
    backends: { forward: ["XnnpackBackend"] },
    execute(_name: string, [input]: FakeTensor[], [output]: FakeTensor[]) {
      if (!alive.has(model)) throw failure("RESOURCE_DISPOSED", "the model is disposed");
      calls.forward++;
      const end = performance.now() + FORWARD_MS;
      quarters(input!.data, side, output!.data);
      while (performance.now() < end); // a network keeps its thread busy
      return [output];
    },
    dispose: () => void alive.delete(model),
  };
  alive.add(model);
  return model;
}

function quarters(x: Float32Array, side: number, out: Float32Array): void {
  out.fill(0);
  const half = side / 2;
  for (let c = 0; c < 3; c++) {
    for (let y = 0; y < side; y++) {
      for (let i = 0; i < side; i++) {
        const quarter = 2 * Number(y >= half) + Number(i >= half);
        out[4 * c + quarter]! += x[(c * side + y) * side + i]! / (half * half);
      }
    }
  }
}

(globalThis as Record<string, unknown>)["__rnexecutorch_jsi__"] = {
  loadModel,
  createTensor,
  getExecuTorchRegisteredBackends: () => ["XnnpackBackend"],
  isEmulator: true,
};

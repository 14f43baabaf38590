// What to measure: the server's job where there is one, else the model in use.
import { type Backend, DemoError, type Job, type Manifest } from "@lowdino/core";
import { Unreachable, getBytes, getJson } from "../api";
import type { Choice, Library } from "../model/library";

export interface Item {
  key: number;
  model: string;
  choice: Choice;
  manifest: Manifest;
  backend: Backend;
}

export interface Plan {
  job: Job | null;
  items: Item[];
  /** Models and backends of the job that this app cannot run, with the reason. */
  impossible: { model: string; backend: Backend; message: string }[];
  runs: number;
  warmup: number;
  burst: number;
}

const DEFAULTS = { runs: 100, warmup: 10, burst: 5 };

/** @param only backends the address asks for by name; one that is not there is then a failure, not a footnote. */
export async function makePlan(library: Library, active: Choice | null, only: Backend[] | null): Promise<Plan> {
  const job = await askForJob();
  const backends = only ?? job?.backends ?? (["wasm", "webgpu"] as Backend[]);
  const gpu = backends.includes("webgpu") && (await hasGpu());
  const { runs, warmup, burst } = job ?? DEFAULTS;
  const plan: Plan = { job, items: [], impossible: [], runs, warmup, burst };
  for (const { model, choice } of models(job, library, active))
    for (const backend of backends) {
      if (choice === null)
        plan.impossible.push({ model, backend, message: "this app cannot read the model's artifact.json" });
      else if (backend !== "webgpu" || gpu)
        plan.items.push({ key: plan.items.length, model, choice, manifest: choice.manifest, backend });
      else if (only !== null) plan.impossible.push({ model, backend, message: "this browser gives no WebGPU adapter" });
    }
  return plan;
}

/** The server opens the images when it is first asked for the job, which takes a while; whether it is there shows at once. */
async function askForJob(): Promise<Job | null> {
  try {
    await getJson("api/info", 5000);
    return await getJson<Job>("api/job", 300_000);
  } catch (e) {
    if (e instanceof Unreachable) return null;
    throw e;
  }
}

function models(job: Job | null, library: Library, active: Choice | null): { model: string; choice: Choice | null }[] {
  if (job !== null)
    return job.models.map((model) => ({
      model,
      choice: library.choices.find((c) => c.served?.name === model) ?? null,
    }));
  return active === null ? [] : [{ model: active.name, choice: active }];
}

/** The images to embed; none where the plan has no job, or the job no images. */
export async function fetchImages(
  job: Job | null,
): Promise<{ bank: ArrayBuffer; query: ArrayBuffer; nBank: number; nQuery: number }> {
  if (job === null || job.n_bank === 0 || job.n_query === 0)
    return { bank: new ArrayBuffer(0), query: new ArrayBuffer(0), nBank: 0, nQuery: 0 };
  const [bank, query] = await Promise.all([getBytes(job.bank_url), getBytes(job.query_url)]);
  const image = 3 * job.image_size ** 2;
  if (bank.byteLength !== job.n_bank * image || query.byteLength !== job.n_query * image)
    throw new DemoError("the server's images are not as many as its job says", "start `lowdino serve` again");
  return { bank, query, nBank: job.n_bank, nQuery: job.n_query };
}

export async function hasGpu(): Promise<boolean> {
  return (await gpuAdapter()) !== null;
}

export async function gpuAdapter(): Promise<GpuAdapter | null> {
  try {
    return (await navigator.gpu?.requestAdapter({ powerPreference: "high-performance" })) ?? null;
  } catch {
    return null;
  }
}

// What the page and the inference worker say to each other. Ids pair an answer with its question.

import type { Backend, Preprocess } from "@lowdino/core";

export interface Entry {
  /** Index of the entry in the benchmark, its name in every message. */
  key: number;
  bytes: ArrayBuffer;
  shape: number[];
  dim: number;
  backend: Backend;
}

export interface BenchPlan {
  entries: Entry[];
  runs: number;
  warmup: number;
  burst: number;
  /** uint8 NHWC, as the network takes them times 255; empty where there are none. */
  bank: ArrayBuffer;
  query: ArrayBuffer;
  nBank: number;
  nQuery: number;
}

export type Ask =
  | { op: "init"; folder: string; gpu: boolean }
  | { op: "load"; bytes: ArrayBuffer; shape: number[]; dim: number; backend: Backend }
  | { op: "embed"; rgba: ArrayBuffer; width: number; height: number; preprocess: Preprocess }
  | { op: "input"; input: Float32Array }
  | { op: "bench"; plan: BenchPlan };

export interface Embedded {
  embedding: Float32Array;
  /** Resizing and cropping, milliseconds. */
  prepareMs: number;
  /** The network alone, milliseconds. */
  networkMs: number;
}

export interface Measured {
  key: number;
  samples: number[];
  warmup: number;
  loadMs: number;
  bank: Float32Array;
  query: Float32Array;
}

export type Step =
  | { step: "loading" | "warming"; key: number }
  | { step: "timing"; share: number }
  | { step: "embedding"; share: number; key: number }
  | { step: "failed"; key: number; message: string; fatal: boolean };

export interface Trouble {
  what: string;
  hint: string;
}

export type FromPage = Ask & { id: number };
export type FromWorker =
  | { id: number; kind: "answer"; value: unknown }
  | { id: number; kind: "trouble"; trouble: Trouble }
  | { id: number; kind: "step"; step: Step };

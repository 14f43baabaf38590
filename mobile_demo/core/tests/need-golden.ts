import { existsSync } from "node:fs";

const FILES = ["cards", "embeddings", "images", "result", "timing"];

/** Fails the whole run, rather than skipping, where the golden vectors were not written. */
export default function setup(): void {
  const missing = FILES.filter((name) => !existsSync(new URL(`../golden/${name}.json`, import.meta.url)));
  if (missing.length === 0) return;
  throw new Error(
    `mobile_demo/core/golden lacks ${missing.map((name) => `${name}.json`).join(", ")}\n` +
      "write it from the repository's root: python tests/mobile/write_golden.py mobile_demo/core/golden",
  );
}

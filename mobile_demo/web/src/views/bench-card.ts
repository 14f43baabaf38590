// One measured model on one backend, or why there are no figures.
import { summary } from "@lowdino/core";
import type { Row } from "../bench/report";
import { type Outcome, title } from "../bench/runner";
import { h, megabytes, milliseconds } from "../dom";

export function resultCard({ item, measured, message }: Outcome, row: Row | null): HTMLElement {
  const head = h(
    "div",
    { class: "card-head" },
    h("span", { class: `dot-mark c${item.key % 5}` }),
    h("h2", {}, title(item)),
  );
  if (measured === null)
    return h("li", { class: "card failed" }, head, h("p", {}, `No figures: ${message ?? "not measured"}`));
  const figures = summary(measured.samples, measured.warmup);
  if (figures.throttled) head.append(h("span", { class: "badge" }, "throttled"));
  const details = [
    `noise ${percent(figures.noise)}`,
    figures.throttled ? `${percent(figures.rise)} slower at the end than at the start` : null,
    `loaded in ${milliseconds(measured.loadMs)} ms`,
    megabytes(item.manifest.bytes),
    `${figures.samples.length} calls after ${figures.warmup} to warm up`,
  ].filter((x): x is string => x !== null);
  return h(
    "li",
    { class: "card" },
    head,
    h(
      "dl",
      { class: "figures" },
      figure("p50", `${milliseconds(figures.p50)} ms`, true),
      figure("p90", `${milliseconds(figures.p90)} ms`),
      row !== null && figure("kNN", share(row.knn_top1), true),
      row !== null && figure("kNN of the float model", share(row.knn_top1_fp32)),
    ),
    row?.neighbour_agreement != null &&
      h("p", { class: "meta" }, `same neighbour as the float model: ${share(row.neighbour_agreement)}`),
    h("p", { class: "meta" }, details.join(" · ")),
  );
}

function figure(name: string, value: string, large = false): HTMLElement {
  return h("div", { class: large ? "large" : "" }, h("dt", {}, name), h("dd", {}, value));
}

function percent(x: number): string {
  return `${(100 * x).toFixed(x < 0.1 ? 1 : 0)}%`;
}

function share(x: number | null): string {
  return x === null ? "–" : `${(100 * x).toFixed(1)}%`;
}

// Every timed call as a dot: across, how long it took; down, when it was taken. So spread and drift are both seen.
import { percentile } from "@lowdino/core";
import { milliseconds, s } from "../dom";

export interface Series {
  name: string;
  samples: number[];
  colour: number;
}

const ROW = 58; // dots
const HEAD = 22; // the name above them
const AXIS = 30;
const SIDE = 22; // room for half a label of the axis
/** Beyond this the axis is logarithmic: one slow backend must not press the others flat. */
const WIDE = 8;

export function chart(series: Series[], width: number): SVGElement {
  const { from, high, log } = axis(series);
  const place = log
    ? (v: number) => Math.log(Math.max(v, from) / from) / Math.log(high / from)
    : (v: number) => (v - from) / (high - from);
  const x = (v: number) => SIDE + place(v) * (width - 2 * SIDE);
  const height = series.length * (ROW + HEAD) + AXIS;
  const svg = s("svg", { width, height, viewBox: `0 0 ${width} ${height}`, role: "img", class: "chart" });
  svg.setAttribute(
    "aria-label",
    series.map((r) => `${r.name}: median ${milliseconds(percentile(r.samples, 50))} ms`).join("; "),
  );
  for (const tick of ticks(from, high, log, width)) svg.append(...gridLine(x(tick), height, tick));
  series.forEach((row, i) => svg.append(strip(row, i * (ROW + HEAD), width, high, x)));
  return svg;
}

/** A coarse clock gives samples of 0 ms, and those have no place on a logarithmic axis: it starts at the least above. */
export function axis(series: Series[]): { from: number; high: number; log: boolean } {
  const all = series.flatMap((x) => x.samples).filter((v) => v > 0);
  const high = Math.max(1e-3, 1.06 * Math.max(...series.map((x) => percentile(x.samples, 98))));
  const low = Math.min(high, ...all);
  if (high / low > WIDE) return { from: 0.9 * low, high, log: true };
  const least = Math.min(...series.flatMap((x) => x.samples));
  return { from: Math.max(0, least - 0.35 * (high - least)), high, log: false };
}

function gridLine(x: number, height: number, tick: number): SVGElement[] {
  const bottom = height - AXIS;
  return [
    s("line", { x1: x, x2: x, y1: 4, y2: bottom + 4, class: "grid" }),
    s("text", { x, y: bottom + 20, "text-anchor": "middle", class: "tick" }, `${+tick.toPrecision(3)} ms`),
  ];
}

function strip(
  { name, samples, colour }: Series,
  top: number,
  width: number,
  high: number,
  x: (v: number) => number,
): SVGElement {
  const g = s("g", { class: `series c${colour % 5}` });
  const y = (i: number) => top + HEAD + 3 + ((ROW - 14) * i) / Math.max(1, samples.length - 1);
  const beyond = samples.filter((v) => v > high);
  const middle = x(percentile(samples, 50));
  const tail = percentile(samples, 90);
  g.append(s("text", { x: 2, y: top + 15, class: "name" }, name));
  if (beyond.length > 0) {
    const text = `+${beyond.length}, to ${milliseconds(Math.max(...beyond))} ms`;
    g.append(s("text", { x: width - 2, y: top + 15, "text-anchor": "end", class: "tick" }, text));
  }
  samples.forEach((v, i) => v <= high && g.append(s("circle", { cx: x(v), cy: y(i), r: 2.4, class: "dot" })));
  const [a, b] = [top + HEAD - 1, top + HEAD + ROW - 8];
  if (tail <= high) g.append(s("line", { x1: x(tail), x2: x(tail), y1: a, y2: b, class: "p90" }));
  g.append(s("line", { x1: middle, x2: middle, y1: a, y2: b, class: "p50" }));
  return g;
}

/** Round numbers, about one for every 90 pixels. */
export function ticks(from: number, to: number, log: boolean, width: number): number[] {
  const most = Math.max(2, Math.floor(width / 90));
  if (log) {
    const found: number[] = [];
    for (let e = Math.floor(Math.log10(from)); e <= Math.log10(to); e++)
      for (const m of [1, 2, 5]) if (m * 10 ** e >= from && m * 10 ** e <= to) found.push(m * 10 ** e);
    const every = Math.ceil(found.length / most);
    return found.filter((_, i) => i % every === 0);
  }
  const rough = (to - from) / most;
  const power = 10 ** Math.floor(Math.log10(rough));
  const step = power * ([1, 2, 5, 10].find((m) => m * power >= rough) ?? 10);
  const found: number[] = [];
  for (let i = Math.ceil(from / step); i * step <= to; i++) found.push(i * step);
  return found;
}

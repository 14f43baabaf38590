// Benchmark: what will be measured, how far it is, what came out.
import { type Backend, percentile } from "@lowdino/core";
import type { App } from "../app";
import { type Series, chart } from "../bench/chart";
import { type Plan, makePlan } from "../bench/plan";
import { type Row, asJson, clockTick, send, sendFault } from "../bench/report";
import { BenchRunner, Cancelled, type Outcome, title } from "../bench/runner";
import { download, fill, h, icon, plural, setText } from "../dom";
import { resultCard } from "./bench-card";

export class BenchView {
  readonly el: HTMLElement;
  private readonly intro = h("p", { class: "intro" });
  private readonly list = h("ul", { class: "planned", "aria-label": "To be measured" });
  private readonly start: HTMLButtonElement;
  private readonly cancel: HTMLButtonElement;
  private readonly bar = h("div", { class: "fill" });
  private readonly meter = h(
    "div",
    { class: "bar", role: "progressbar", "aria-label": "Benchmark", "aria-valuemin": 0, "aria-valuemax": 100 },
    this.bar,
  );
  private readonly phase = h("p", { class: "phase" });
  private readonly progress = h("div", { class: "progress", hidden: true });
  private readonly out = h("div", { class: "outcomes" });
  private plan: Plan | null = null;
  private runner: BenchRunner | null = null;
  private outcomes: Outcome[] = [];
  private readonly rows = new Map<number, Row>();
  private tick = 0;

  constructor(private readonly app: App) {
    this.start = h(
      "button",
      { class: "primary wide", disabled: true, onclick: () => void this.measure(this.plan?.job?.auto === true) },
      "Start",
    );
    this.cancel = h("button", { class: "quiet", onclick: () => this.runner?.cancel() }, "Cancel");
    fill(this.progress, this.phase, this.meter, this.cancel);
    this.el = h(
      "div",
      { class: "view bench" },
      h("h1", {}, "Benchmark"),
      this.intro,
      this.list,
      this.start,
      this.progress,
      this.out,
    );
    new ResizeObserver(() => this.drawChart()).observe(this.out);
  }

  show(): void {
    if (this.runner === null && this.outcomes.length === 0) this.app.try(() => this.prepare(null));
  }

  /** The address asked for it: starts by itself, sends everything, says in the title how it went. */
  async auto(only: Backend[] | null): Promise<void> {
    try {
      await this.prepare(only);
      await this.measure(true);
    } catch (e) {
      this.app.fault(e);
    }
    const done = this.rows.size > 0;
    document.title = done ? "lowdino: done" : "lowdino: failed";
  }

  private async prepare(only: Backend[] | null): Promise<void> {
    setText(this.intro, "Asking what to measure…");
    await this.app.started;
    const plan = await makePlan(this.app.library, this.app.model.value?.choice ?? null, only);
    this.plan = plan;
    const where =
      plan.job === null
        ? "No server answers, so the loaded model alone is timed."
        : "Results go into the run's report.";
    const knn =
      plan.job !== null && plan.job.n_bank > 0
        ? ` Then ${plan.job.n_bank + plan.job.n_query} images are embedded, for kNN accuracy.`
        : "";
    setText(this.intro, `${plan.runs} timed calls each, in turns, after a warm-up.${knn} ${where}`);
    const rows = plan.items.map((item) =>
      h("li", {}, h("span", { class: "dot-mark c" + (item.key % 5) }), title(item)),
    );
    const not = plan.impossible.map((x) => h("li", { class: "not" }, `${title(x)}: ${x.message}`));
    const noGpu =
      plan.items.some((i) => i.backend === "webgpu") || plan.impossible.length > 0
        ? null
        : h("li", { class: "not" }, "WebGPU: this browser offers none");
    fill(this.list, ...rows, ...not, noGpu);
    this.start.disabled = plan.items.length === 0;
  }

  private async measure(sendAfter: boolean): Promise<void> {
    const { plan } = this;
    if (plan === null || this.runner !== null) return;
    this.outcomes = [];
    this.rows.clear();
    fill(this.out);
    this.start.hidden = true;
    this.list.hidden = false;
    this.progress.hidden = false;
    const lock = await navigator.wakeLock?.request("screen").catch(() => null);
    this.tick = clockTick();
    this.runner = new BenchRunner(this.app.library, ({ text, share }) => {
      setText(this.phase, text);
      this.bar.style.transform = `scaleX(${share.toFixed(3)})`;
      this.meter.setAttribute("aria-valuenow", String(Math.round(100 * share)));
    });
    try {
      this.outcomes = await this.runner.run(plan);
      this.draw();
      if (sendAfter) await this.send();
    } catch (e) {
      if (e instanceof Cancelled) this.app.say("Benchmark cancelled");
      else this.app.fault(e);
      if (sendAfter && this.outcomes.length === 0)
        await sendFault(plan, e instanceof Error ? e.message : String(e)).catch(() => undefined);
    } finally {
      this.runner = null;
      void lock?.release();
      this.progress.hidden = true;
      this.list.hidden = this.outcomes.length > 0; // the chart and the cards name them again
      this.start.hidden = false;
      setText(this.start, this.outcomes.length > 0 ? "Run again" : "Start");
      this.start.classList.toggle("primary", this.outcomes.length === 0);
      this.start.classList.toggle("quiet", this.outcomes.length > 0);
    }
  }

  private async send(): Promise<void> {
    const { plan } = this;
    if (plan === null || plan.job === null) return;
    const left = this.outcomes.filter((o) => !this.rows.has(o.item.key));
    await send(plan, left, (outcome, row) => {
      if (row !== null) this.rows.set(outcome.item.key, row);
      this.draw();
    });
    this.draw();
    this.app.say(`${plural(this.rows.size, "result")} sent`, "they are in the run's report.html");
  }

  private draw(): void {
    const measured = this.outcomes.filter((o) => o.measured !== null);
    const sent = measured.length > 0 && measured.every((o) => this.rows.has(o.item.key));
    const sendable = this.plan?.job !== null && !sent;
    fill(
      this.out,
      measured.length > 0 &&
        h(
          "figure",
          {},
          h(
            "figcaption",
            {},
            "Each dot is one call; top to bottom in the order they were taken. Solid: median. Dashed: 90th percentile.",
          ),
          h("div", { class: "plot" }),
        ),
      h("ul", { class: "cards" }, ...this.outcomes.map((o) => resultCard(o, this.rows.get(o.item.key) ?? null))),
      this.clockNote(measured),
      h(
        "div",
        { class: "row" },
        sendable &&
          h(
            "button",
            { class: "primary", onclick: () => this.app.try(() => this.send()) },
            icon("open"),
            "Send to the computer",
          ),
        h("button", { class: "quiet", onclick: () => this.app.try(() => this.copy()) }, icon("file"), "Copy as JSON"),
      ),
      sent && h("p", { class: "sent", role: "status" }, icon("check"), "Sent. The run's report shows it."),
    );
    this.drawChart();
  }

  private drawChart(): void {
    const plot = this.out.querySelector(".plot");
    const width = Math.floor(plot?.clientWidth ?? 0);
    if (plot === null || width === 0 || plot.firstElementChild?.getAttribute("width") === String(width)) return;
    const series: Series[] = this.outcomes.flatMap((o) =>
      o.measured === null ? [] : [{ name: title(o.item), samples: o.measured.samples, colour: o.item.key }],
    );
    fill(plot, chart(series, width));
  }

  private clockNote(measured: Outcome[]): Node | null {
    const fastest = Math.min(...measured.map((o) => percentile(o.measured?.samples ?? [1], 50)));
    if (measured.length === 0 || this.tick < 0.05 * fastest) return null;
    return h(
      "p",
      { class: "note" },
      `This browser's clock moves in steps of ${this.tick.toFixed(2)} ms: single calls are no more exact than that.`,
    );
  }

  private async copy(): Promise<void> {
    if (this.plan === null) return;
    const text = await asJson(this.plan, this.outcomes, this.tick);
    if (navigator.clipboard === undefined) return download("lowdino-benchmark.json", "application/json", text);
    await navigator.clipboard.writeText(text);
    this.app.say("Copied");
  }
}

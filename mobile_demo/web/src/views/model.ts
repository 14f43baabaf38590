// Model: the one in use, the others on offer, files of one's own, and the proof on this device.
import type { Golden } from "@lowdino/core";
import { getJson } from "../api";
import type { App } from "../app";
import { fill, h, icon, megabytes, plural } from "../dom";
import { type GoldenCheck, checkGolden } from "../model/golden";
import type { Choice } from "../model/library";
import type { Pwa } from "../pwa";

export class ModelView {
  readonly el: HTMLElement;
  private readonly current = h("div", { class: "card current" });
  private readonly list = h("ul", { class: "choices", "aria-label": "Models" });
  private readonly offline = h("p", { class: "note" });
  private readonly install: HTMLButtonElement;
  private readonly picking = h("input", {
    type: "file",
    accept: ".tflite,.json",
    multiple: true,
    class: "file",
    "aria-label": "Model files",
    tabindex: "-1",
  });
  private check: GoldenCheck | null = null;

  constructor(
    private readonly app: App,
    pwa: Pwa,
  ) {
    const pick = h(
      "button",
      { class: "quiet wide", onclick: () => this.picking.click() },
      icon("file"),
      "Pick .tflite and artifact.json",
    );
    this.install = h(
      "button",
      { class: "quiet", hidden: true, onclick: () => app.try(() => pwa.install()) },
      icon("save"),
      "Install as an app",
    );
    this.el = h(
      "div",
      { class: "view model" },
      h("h1", {}, "Model"),
      this.current,
      h("h2", {}, "Switch to"),
      this.list,
      h(
        "div",
        { class: "drop" },
        pick,
        h("p", {}, "Or drop both files anywhere on this page. They stay on this device."),
        this.picking,
      ),
      h("h2", {}, "Offline"),
      this.offline,
      this.install,
    );
    this.picking.addEventListener("change", () => this.add([...(this.picking.files ?? [])]));
    app.model.watch(() => {
      this.check = null;
      this.redraw();
    });
    pwa.state.watch((text) => fill(this.offline, text));
    pwa.installable.watch((can) => (this.install.hidden = !can));
  }

  show(): void {
    this.redraw();
  }

  add(files: File[]): void {
    this.app.try(async () => {
      const choice = await this.app.library.add(files);
      this.picking.value = "";
      await this.use(choice);
    });
  }

  private async use(choice: Choice): Promise<void> {
    const taught = this.app.classes.value?.classes.length ?? 0;
    const before = this.app.model.value?.choice;
    await this.app.use(choice);
    const stay = before !== undefined && before.sha256 !== choice.sha256 && taught > 0;
    this.app.say(
      `${choice.name} is in use`,
      stay ? `The ${plural(taught, "class", "classes")} you taught stay with ${before.name}` : "",
    );
  }

  private redraw(): void {
    const active = this.app.model.value;
    fill(this.current, ...(active === null ? [h("p", {}, "No model is loaded.")] : this.facts(active.choice)));
    const rows = this.app.library.choices.map((c) => this.row(c, c.sha256 === active?.choice.sha256));
    fill(this.list, ...rows);
  }

  private facts(choice: Choice): (Node | null)[] {
    const m = choice.manifest;
    const parity = (m.raw as { parity?: { cosine_mean?: unknown } }).parity?.cosine_mean;
    const facts: [string, string][] = [
      ["Network", m.student ?? m.file],
      ["Scheme", m.scheme === "none" ? "float" : m.scheme],
      ["Size", megabytes(m.bytes)],
      ["Input", `${m.preprocess.imageSize} px`],
      ["Embedding", `${m.embedDim} numbers`],
      ["sha256", m.sha256.slice(0, 12)],
    ];
    if (typeof parity === "number") facts.push(["Proof at export", `cosine ${parity.toFixed(5)}`]);
    const url = choice.served?.golden_url;
    return [
      h("h2", {}, choice.name),
      h("dl", { class: "facts" }, ...facts.map(([k, v]) => h("div", {}, h("dt", {}, k), h("dd", {}, v)))),
      url === undefined
        ? null
        : h(
            "button",
            { class: "quiet", onclick: () => this.app.try(() => this.prove(url)) },
            icon("check"),
            "Prove it on this device",
          ),
      this.check === null ? null : h("p", { class: "proof", role: "status" }, proof(this.check)),
    ];
  }

  private async prove(url: string): Promise<void> {
    this.check = await checkGolden(this.app.engine, await getJson<Golden>(url));
    this.redraw();
  }

  private row(choice: Choice, active: boolean): HTMLElement {
    const { manifest, served, kept, picked } = choice;
    const where = picked ? "your file" : kept ? "kept for offline" : "on the computer";
    const knn = served?.knn_top1 == null ? "" : ` · kNN ${(100 * served.knn_top1).toFixed(1)}%`;
    const use = () => this.app.try(() => this.use(choice));
    const text = h(
      "span",
      { class: "text" },
      h("span", { class: "name" }, choice.name),
      h("span", { class: "count" }, `${megabytes(manifest.bytes)} · ${where}${knn}`),
    );
    const button = h(
      "button",
      { class: "choice", "aria-pressed": active, onclick: use },
      text,
      active && icon("check"),
    );
    button.setAttribute("aria-pressed", String(active));
    const forget = () =>
      this.app.try(async () => {
        await this.app.library.forget(choice);
        this.redraw();
      });
    return h(
      "li",
      {},
      button,
      picked &&
        !active &&
        h("button", { class: "more", "aria-label": `Forget ${choice.name}`, onclick: forget }, icon("trash")),
    );
  }
}

function proof({ n, cosines }: GoldenCheck): string {
  const mean = cosines.reduce((a, b) => a + b, 0) / Math.max(1, n);
  return `On ${plural(n, "image")}: cosine ${mean.toFixed(6)} to what this file gave when it was exported, ${Math.min(...cosines).toFixed(6)} at the least.`;
}

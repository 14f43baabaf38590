// Live: what the camera sees now, by the vote of the nearest taught examples.
import { type Bank, type Example, type TaughtClass, classify } from "@lowdino/core";
import type { App } from "../app";
import { h, milliseconds, setText } from "../dom";
import { Judge, type Verdict, floorOf } from "../live/judge";
import { Loop } from "../live/loop";
import type { Picture } from "../picture";
import type { Stage } from "./stage";

const SHOWN = 5; // neighbours
/** Milliseconds on the screen are the mean of about this many frames: digits that change twelve times a second say nothing. */
const FRAMES = 12;

export class LiveView {
  readonly el: HTMLElement;
  private readonly label = h("p", { class: "label", id: "live-label" });
  private readonly spoken = h("p", { class: "hidden", role: "status", "aria-live": "polite" });
  private readonly percent = h("p", { class: "percent" });
  private readonly bar = h("div", { class: "fill" });
  private readonly why = h("p", { class: "why" });
  private readonly meta = h("p", { class: "meta" });
  private readonly slots: { img: HTMLImageElement; text: HTMLElement }[] = [];
  private readonly result: HTMLElement;
  private readonly empty: HTMLElement;
  private readonly loop: Loop;
  private bank: Bank | null = null;
  private classes: readonly TaughtClass[] = [];
  private rows: { example: Example; name: string }[] = [];
  private judge = new Judge(0);
  private frameMs = 0;
  private networkMs = 0;
  private spokenFor = { text: "", since: 0 };

  constructor(
    private readonly app: App,
    private readonly stage: Stage,
  ) {
    const strip = h("ol", { class: "neighbours", "aria-label": "Nearest examples" });
    for (let i = 0; i < SHOWN; i++) {
      const img = h("img", { alt: "", width: 56, height: 56, src: "icons/blank.svg" });
      const text = h("span", {});
      this.slots.push({ img, text });
      strip.append(h("li", {}, img, text));
    }
    this.result = h(
      "div",
      { class: "result" },
      h("div", { class: "answer" }, this.label, this.percent),
      h("div", { class: "bar" }, this.bar),
      this.why,
      h("h2", {}, "Nearest examples"),
      strip,
      this.meta,
      this.spoken,
    );
    this.empty = h(
      "div",
      { class: "empty-live" },
      h("h2", {}, "Teach at least two classes"),
      h("p", {}, "Recognising means telling apart: it compares what it sees with the examples you gave it."),
      h("a", { class: "button primary", href: "#teach" }, "Teach something"),
    );
    this.el = h("div", { class: "view live" }, this.result, this.empty);
    this.loop = new Loop(
      () => this.frame(),
      (e) => app.fault(e),
    );
    app.classes.watch(() => this.prepare());
  }

  show(): void {
    this.prepare();
    this.stage.onPhotos = (pictures) => this.app.try(() => this.photos(pictures));
    this.idle();
    this.loop.start();
  }

  hide(): void {
    this.loop.stop();
  }

  private prepare(): void {
    this.classes = this.app.classes.value?.classes ?? [];
    this.rows = this.classes.flatMap((c) => c.examples.map((example) => ({ example, name: c.name })));
    const ready = this.classes.filter((c) => c.examples.length > 0).length >= 2;
    this.bank = ready ? this.app.store.bank() : null;
    this.judge = new Judge(this.bank === null ? 0 : floorOf(this.bank));
    this.result.hidden = !ready;
    this.empty.hidden = ready;
  }

  private idle(): void {
    setText(this.label, "…");
    setText(this.percent, "");
    setText(this.why, this.stage.camera.state === "on" ? "" : "Start the camera, or use a photo.");
    this.bar.style.transform = "scaleX(0)";
  }

  private async frame(): Promise<void> {
    if (this.bank === null || this.app.model.value === null) return;
    const image = this.stage.camera.grab();
    if (image !== null) await this.see(image);
  }

  private async photos(pictures: Picture[]): Promise<void> {
    const last = pictures.at(-1);
    if (last === undefined || this.bank === null) return;
    this.judge.reset();
    await this.see(last.image);
  }

  private async see(image: ImageData): Promise<void> {
    const begin = performance.now();
    const bank = this.bank;
    const { embedding, networkMs } = await this.app.engine.embed(image, this.app.active.manifest.preprocess);
    if (bank === null || bank !== this.bank || embedding.length !== bank.dim) return; // the classes or the model changed meanwhile
    const vote = classify(bank, embedding, { classes: this.classes.length });
    const frameMs = performance.now() - begin;
    this.frameMs += (frameMs - this.frameMs) / (this.frameMs === 0 ? 1 : FRAMES);
    this.networkMs += (networkMs - this.networkMs) / (this.networkMs === 0 ? 1 : FRAMES);
    this.tell(this.judge.take(vote));
    this.slots.forEach(({ img, text }, i) => {
      const near = vote.neighbours[i];
      const row = near === undefined ? undefined : this.rows[near.index];
      const src = row?.example.thumbnail ?? "icons/blank.svg";
      if (img.getAttribute("src") !== src) img.src = src;
      img.alt = row?.name ?? "";
      setText(text, near === undefined ? "" : near.similarity.toFixed(2));
    });
    setText(this.meta, `${milliseconds(this.frameMs)} ms a frame, ${milliseconds(this.networkMs)} of it the network`);
  }

  private tell({ label, confidence, leading, doubt }: Verdict): void {
    const name = this.classes[leading]?.name ?? "";
    const text = label === null ? "Not sure" : name;
    setText(this.label, text);
    this.result.classList.toggle("unsure", label === null);
    setText(this.percent, `${Math.round(100 * confidence)}%`);
    this.bar.style.transform = `scaleX(${confidence.toFixed(3)})`;
    setText(
      this.why,
      doubt === "unlike"
        ? "This looks like nothing it was taught."
        : doubt === "torn"
          ? `Perhaps ${name}. More examples would help.`
          : "of the neighbours' votes",
    );
    this.speak(text);
  }

  /** A screen reader hears a label once it has held for a second, not every frame. */
  private speak(text: string): void {
    const now = performance.now();
    if (this.spokenFor.text !== text) this.spokenFor = { text, since: now };
    else if (now - this.spokenFor.since > 1000) setText(this.spoken, text);
  }
}

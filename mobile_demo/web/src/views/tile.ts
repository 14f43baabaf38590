// One class on the Teach page: a large button that adds an example, and a small one for everything else.
import type { TaughtClass } from "@lowdino/core";
import { fill, h, icon, plural, setText } from "../dom";

const HOLD_MS = 400; // a finger that stays this long adds several
const SHOWN = 4; // thumbnails

export class Tile {
  readonly el: HTMLElement;
  private readonly name = h("span", { class: "name" });
  private readonly count = h("span", { class: "count" });
  private readonly strip = h("span", { class: "strip" });
  private readonly button: HTMLButtonElement;
  private readonly more: HTMLButtonElement;
  private shown = "";
  private timer = 0;
  private held = false;

  /** @param add takes one example; @param hold as well, again and again until the finger leaves; @param open the rest. */
  constructor(
    private readonly add: () => void,
    private readonly hold: (going: () => boolean) => void,
    open: () => void,
  ) {
    const body = h("span", { class: "text" }, this.name, this.count);
    this.button = h("button", { class: "add", onclick: () => this.click() }, body, this.strip);
    this.more = h("button", { class: "more", onclick: open }, icon("more"));
    this.el = h("li", { class: "tile" }, this.button, this.more);
    this.button.addEventListener("pointerdown", () => this.down());
    for (const end of ["pointerup", "pointerleave", "pointercancel"])
      this.button.addEventListener(end, () => window.clearTimeout(this.timer));
    this.button.addEventListener("contextmenu", (e) => e.preventDefault());
  }

  update({ name, examples }: TaughtClass): void {
    setText(this.name, name);
    setText(this.count, examples.length === 0 ? "tap to add" : plural(examples.length, "example"));
    this.button.setAttribute("aria-label", `Add an example of ${name}; ${plural(examples.length, "example")} so far`);
    this.more.setAttribute("aria-label", `Edit ${name}`);
    this.el.classList.toggle("empty", examples.length === 0);
    const last = examples.slice(-SHOWN);
    const key = last.map((e) => e.id).join();
    if (key === this.shown) return;
    this.shown = key;
    fill(
      this.strip,
      ...last.map((e) => h("img", { src: e.thumbnail ?? "icons/mark.svg", alt: "", width: 40, height: 40 })),
    );
  }

  /** Shows that an example was taken. */
  flash(): void {
    this.el.classList.remove("flash");
    void this.el.offsetWidth; // starts the animation again
    this.el.classList.add("flash");
  }

  private down(): void {
    this.held = false;
    let going = true;
    const stop = () => (going = false);
    this.button.addEventListener("pointerup", stop, { once: true });
    this.button.addEventListener("pointerleave", stop, { once: true });
    this.button.addEventListener("pointercancel", stop, { once: true });
    window.clearTimeout(this.timer);
    this.timer = window.setTimeout(() => {
      this.held = true;
      this.hold(() => going);
    }, HOLD_MS);
  }

  private click(): void {
    if (!this.held) this.add();
    this.held = false;
  }
}

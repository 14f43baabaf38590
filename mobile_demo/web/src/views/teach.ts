// Teach: name a thing, tap its tile while the camera looks at it.
import type { ClassStore } from "@lowdino/core";
import type { App } from "../app";
import { download, h, icon, plural, setText } from "../dom";
import { classSheet } from "./class-sheet";
import type { Stage } from "./stage";
import { Tile } from "./tile";

const HOLD_EVERY_MS = 220;
const ENOUGH = 3; // examples a class, after which the lesson says "go"

export class TeachView {
  readonly el: HTMLElement;
  private readonly lesson = h("p", { class: "lesson" });
  private readonly go = h("a", { class: "button primary go", href: "#live" }, "Try it live");
  private readonly list = h("ul", { class: "tiles", "aria-label": "Classes" });
  private readonly name = h("input", {
    type: "text",
    id: "new-class",
    maxlength: "40",
    autocomplete: "off",
    autocapitalize: "sentences",
    enterkeyhint: "done",
    placeholder: "Name a thing",
    "aria-label": "Name of a new class",
  });
  private readonly undo: HTMLButtonElement;
  private readonly exporting: HTMLButtonElement;
  private readonly importing = h("input", {
    type: "file",
    accept: ".json,application/json",
    class: "file",
    "aria-label": "Import classes",
    tabindex: "-1",
  });
  private readonly tiles = new Map<string, Tile>();

  constructor(
    private readonly app: App,
    private readonly stage: Stage,
  ) {
    this.undo = h("button", { class: "quiet", onclick: () => app.try(() => app.undo()) }, icon("undo"), "Undo");
    this.exporting = h("button", { class: "quiet", onclick: () => this.export() }, icon("save"), "Export");
    const open = h("button", { class: "quiet", onclick: () => this.importing.click() }, icon("open"), "Import");
    const form = h(
      "form",
      { class: "new", onsubmit: (e: Event) => this.addClass(e) },
      this.name,
      h("button", { type: "submit", class: "primary" }, "Add class"),
    );
    this.el = h(
      "div",
      { class: "view teach" },
      h("div", { class: "lesson-row" }, this.lesson, this.go),
      this.list,
      form,
      h("div", { class: "row foot" }, this.undo, this.exporting, open, this.importing),
    );
    this.importing.addEventListener("change", () => app.try(() => this.import()));
    app.classes.watch((store) => this.redraw(store));
  }

  private redraw(store: ClassStore | null): void {
    const classes = store?.classes ?? [];
    for (const [id, tile] of this.tiles)
      if (!classes.some((c) => c.id === id)) {
        tile.el.remove();
        this.tiles.delete(id);
      }
    classes.forEach((c, i) => {
      const tile = this.tiles.get(c.id) ?? this.newTile(c.id);
      tile.update(c);
      // Moved only where it must: an element that is moved loses the finger that is on it.
      if (this.list.children[i] !== tile.el) this.list.insertBefore(tile.el, this.list.children[i] ?? null);
    });
    this.list.hidden = classes.length === 0;
    this.undo.disabled = !this.app.canUndo;
    this.exporting.disabled = classes.length === 0;
    setText(this.lesson, lesson(classes));
    const ready = classes.filter((c) => c.examples.length > 0).length >= 2;
    this.go.classList.toggle("absent", !ready);
    this.go.toggleAttribute("inert", !ready);
  }

  private newTile(id: string): Tile {
    const tile = new Tile(
      () => this.app.try(() => this.add(id)),
      (going) => this.app.try(() => this.addMany(id, going)),
      () => classSheet(this.app, this.stage, id),
    );
    this.tiles.set(id, tile);
    return tile;
  }

  private addClass(event: Event): void {
    event.preventDefault();
    const name = this.name.value.trim() || `Thing ${this.app.store.classes.length + 1}`;
    this.app.try(() => {
      this.app.change((store) => store.addClass(name));
      this.name.value = "";
      this.name.blur(); // the keyboard leaves, the camera is seen again
      this.list.lastElementChild?.scrollIntoView({ block: "nearest" });
      this.list.lastElementChild?.querySelector<HTMLElement>(".add")?.focus({ preventScroll: true });
      if (this.stage.camera.state === "off") this.app.try(() => this.stage.camera.start());
    });
  }

  private async add(id: string): Promise<void> {
    if (this.stage.usesPhotos) {
      for (const picture of await this.stage.askPhotos()) await this.taught(id, picture);
      return;
    }
    if (this.stage.camera.state === "off") await this.stage.camera.start();
    const picture = this.stage.take();
    if (picture !== null) await this.taught(id, picture);
  }

  private async addMany(id: string, going: () => boolean): Promise<void> {
    if (this.stage.camera.state !== "on") return this.add(id);
    while (going()) {
      const picture = this.stage.take();
      if (picture !== null) await this.taught(id, picture);
      await new Promise((done) => setTimeout(done, HOLD_EVERY_MS));
    }
  }

  private async taught(id: string, picture: Parameters<App["teach"]>[1]): Promise<void> {
    this.tiles.get(id)?.flash();
    await this.app.teach(id, picture);
  }

  private export(): void {
    const text = JSON.stringify(this.app.store.toJSON());
    download("lowdino-classes.json", "application/json", text);
    this.app.say(`${plural(this.app.store.classes.length, "class", "classes")} exported`);
  }

  private async import(): Promise<void> {
    const file = this.importing.files?.[0];
    if (file === undefined) return;
    const text = await file.text();
    this.importing.value = "";
    const read = this.app.importClasses(text);
    this.app.say(`${plural(read.classes.length, "class", "classes")} imported`, "Undo brings back those before");
  }
}

function lesson(classes: ClassStore["classes"]): string {
  if (classes.length === 0)
    return "Show it a thing, give it a name, then tap its tile a few times from different sides.";
  const thin = classes.find((c) => c.examples.length < ENOUGH);
  if (thin !== undefined)
    return `Look at “${thin.name}” and tap its tile ${ENOUGH} times or more, turning it a little. Hold to add many.`;
  if (classes.length === 1) return "Good. Now name a second thing, so that there is something to tell apart.";
  return "Ready. More sides make it surer.";
}

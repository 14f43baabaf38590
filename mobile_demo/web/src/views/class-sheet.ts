// Everything about one class but teaching: its name, its examples one by one, photos from files, its end.
import type { App } from "../app";
import { fill, h, icon, plural } from "../dom";
import { openSheet } from "./sheet";
import type { Stage } from "./stage";

export function classSheet(app: App, stage: Stage, id: string): void {
  const taught = app.store.classes.find((c) => c.id === id);
  if (taught === undefined) return;
  openSheet(`Edit ${taught.name}`, (close) => {
    const name = h("input", {
      type: "text",
      value: taught.name,
      maxlength: "40",
      id: "class-name",
      autocomplete: "off",
    });
    const rename = (e: Event) => {
      e.preventDefault();
      app.try(() => {
        const wanted = name.value.trim();
        if (wanted !== "" && wanted !== taught.name) app.change((store) => store.renameClass(id, wanted));
        close();
      });
    };
    const files = h("input", {
      type: "file",
      accept: "image/*",
      multiple: true,
      class: "file",
      "aria-label": "Photos",
      tabindex: "-1",
    });
    const grid = h("ul", { class: "examples", "aria-label": "Examples" });
    const draw = () => drawExamples(app, id, grid);
    files.addEventListener("change", () =>
      app.try(async () => {
        for (const picture of await stage.read(files.files ?? [])) await app.teach(id, picture);
        files.value = "";
        draw();
      }),
    );
    const remove = () => {
      app.change((store) => store.removeClass(id));
      app.say(`${taught.name} deleted`, "Undo brings it back");
      close();
    };
    draw();
    return [
      h(
        "form",
        { class: "new", onsubmit: rename },
        h("label", { for: "class-name", class: "hidden" }, "Name"),
        name,
        h("button", { class: "primary" }, "Rename"),
      ),
      grid,
      files,
      h(
        "div",
        { class: "row" },
        h("button", { class: "quiet", onclick: () => files.click() }, icon("file"), "Add photos"),
        h("button", { class: "quiet danger", onclick: remove }, icon("trash"), "Delete class"),
      ),
    ];
  });
}

function drawExamples(app: App, id: string, grid: HTMLElement): void {
  const examples = app.store.classes.find((c) => c.id === id)?.examples ?? [];
  if (examples.length === 0)
    return fill(grid, h("li", { class: "none" }, "No examples yet. Tap the tile on the Teach page."));
  const items = examples.map((e, i) => {
    const remove = () => {
      app.change((store) => store.removeExample(id, e.id));
      app.say(`Example deleted, ${plural(examples.length - 1, "is", "are")} left`, "Undo brings it back");
      drawExamples(app, id, grid);
      (grid.children[Math.min(i, examples.length - 2)]?.querySelector("button") as HTMLElement | null)?.focus();
    };
    const picture = h("img", { src: e.thumbnail ?? "icons/mark.svg", alt: "", width: 72, height: 72 });
    return h(
      "li",
      {},
      h(
        "button",
        { class: "example", "aria-label": `Delete example ${i + 1}`, onclick: remove },
        picture,
        icon("close"),
      ),
    );
  });
  fill(grid, ...items);
}

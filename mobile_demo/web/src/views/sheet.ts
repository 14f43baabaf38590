// A sheet over the page: the browser's own dialog, which keeps focus inside and closes on Escape.
import { h, icon } from "../dom";

export function openSheet(title: string, build: (close: () => void) => Node[]): HTMLDialogElement {
  const heading = h("h2", { id: "sheet-title" }, title);
  const dialog = h("dialog", { class: "sheet", "aria-labelledby": "sheet-title" });
  const close = () => dialog.close();
  const x = h("button", { class: "round plain", "aria-label": "Close", onclick: close }, icon("close"));
  dialog.append(h("div", { class: "sheet-head" }, heading, x), h("div", { class: "sheet-body" }, ...build(close)));
  dialog.addEventListener("close", () => dialog.remove());
  dialog.addEventListener("click", (e) => {
    if (e.target === dialog) close(); // the backdrop
  });
  document.body.append(dialog);
  dialog.showModal();
  return dialog;
}

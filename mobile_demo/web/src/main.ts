// Puts the app together: pages and their tabs, notices, dropped files, the address's wishes.
import type { Backend } from "@lowdino/core";
import { App, type Notice, sentence } from "./app";
import { Db } from "./db";
import { type IconName, fill, h, icon, setText } from "./dom";
import { checkGolden } from "./model/golden";
import { Library } from "./model/library";
import { Pwa } from "./pwa";
import { BenchView } from "./views/bench";
import { LiveView } from "./views/live";
import { ModelView } from "./views/model";
import { Stage } from "./views/stage";
import { TeachView } from "./views/teach";
import { getJson } from "./api";

interface View {
  el: HTMLElement;
  show?(): void;
  hide?(): void;
}

const PAGES = { teach: "Teach", live: "Live", bench: "Benchmark", model: "Model" } as const;
type Page = keyof typeof PAGES;
const NOTICE_MS = 6000;

function byId(id: string): HTMLElement {
  const el = document.getElementById(id);
  if (el === null) throw new Error(`index.html has no #${id}`);
  return el;
}

async function main(): Promise<void> {
  const db = await Db.open();
  const app = new App(db, new Library(db));
  const pwa = new Pwa();
  const stage = new Stage(app, byId("stage"));
  const bench = new BenchView(app);
  const model = new ModelView(app, pwa);
  const views: Record<Page, View> = { teach: new TeachView(app, stage), live: new LiveView(app, stage), bench, model };

  notices(app, pwa);
  route(views, stage);
  dropFiles((files) => {
    location.hash = "model";
    model.add(files);
  });
  app.loading.watch((text) => chip(app, text));
  app.model.watch(() => chip(app, app.loading.value));

  await app.start();
  void pwa.start(db.lasting); // after the model: installing downloads what the page just used
  hook(app);
  const wishes = new URLSearchParams(location.search);
  if (wishes.get("auto") === "1") {
    location.hash = "bench";
    await bench.auto(backends(wishes.get("backends")));
  } else await startGrantedCamera(stage);
}

/** Where the camera was allowed before, it starts by itself; a first visit asks with a button and a reason. */
async function startGrantedCamera(stage: Stage): Promise<void> {
  const permission = await navigator.permissions?.query({ name: "camera" as PermissionName }).catch(() => null);
  if (permission?.state === "granted" && wantsCamera() && !document.hidden) await stage.camera.start();
}

function backends(text: string | null): Backend[] | null {
  if (text === null) return null;
  const known = text.split(",").filter((b): b is Backend => b === "wasm" || b === "webgpu");
  return known.length > 0 ? known : null;
}

function page(): Page {
  const name = location.hash.slice(1);
  return name in PAGES ? (name as Page) : "teach";
}

function wantsCamera(): boolean {
  return page() === "teach" || page() === "live";
}

function route(views: Record<Page, View>, stage: Stage): void {
  const tabs = new Map(
    (Object.keys(PAGES) as Page[]).map((name) => [
      name,
      h("a", { href: `#${name}` }, icon(name satisfies IconName), h("span", {}, PAGES[name])),
    ]),
  );
  fill(byId("tabs"), ...tabs.values());
  fill(byId("panel"), ...Object.values(views).map((v) => v.el));
  let shown: Page | null = null;
  let cameraWasOn = false;
  const go = () => {
    const next = page();
    if (shown !== null && shown !== next) views[shown].hide?.();
    for (const [name, view] of Object.entries(views)) view.el.hidden = name !== next;
    for (const [name, tab] of tabs) {
      if (name === next) tab.setAttribute("aria-current", "page");
      else tab.removeAttribute("aria-current");
    }
    document.body.dataset["page"] = next;
    stage.el.hidden = !wantsCamera();
    document.title = `lowdino: ${PAGES[next]}`;
    byId("panel").scrollTop = 0;
    shown = next;
    stage.onPhotos = () => {};
    views[next].show?.();
    camera();
  };
  // The camera runs only while it is looked through.
  const camera = () => {
    const wanted = wantsCamera() && !document.hidden;
    if (!wanted && ["on", "starting"].includes(stage.camera.state)) {
      cameraWasOn = true;
      stage.camera.stop();
    } else if (wanted && cameraWasOn && stage.camera.state === "off") {
      cameraWasOn = false;
      void stage.camera.start();
    }
  };
  window.addEventListener("hashchange", go);
  document.addEventListener("visibilitychange", camera);
  go();
}

function chip(app: App, loading: string | null): void {
  const active = app.model.value;
  const el = byId("model-chip");
  setText(el, loading ?? active?.choice.name ?? "No model");
  el.setAttribute("aria-label", `Model: ${el.textContent}`);
  el.classList.toggle("busy", loading !== null);
}

function notices(app: App, pwa: Pwa): void {
  const el = byId("notice");
  let timer = 0;
  const show = (notice: Notice | null, action?: Node) => {
    window.clearTimeout(timer);
    el.classList.toggle("shown", notice !== null);
    el.classList.toggle("bad", notice?.bad === true);
    if (notice === null) return fill(el);
    const close = h(
      "button",
      { class: "round plain", "aria-label": "Dismiss", onclick: () => show(null) },
      icon("close"),
    );
    fill(
      el,
      h(
        "p",
        {},
        h("strong", {}, `${notice.text}.`),
        notice.hint === "" ? null : h("span", {}, ` ${sentence(notice.hint)}.`),
      ),
      action,
      close,
    );
    if (!notice.bad && action === undefined) timer = window.setTimeout(() => show(null), NOTICE_MS);
  };
  app.notice.watch((notice) => show(notice));
  pwa.update.watch((take) => {
    if (take !== null)
      show(
        { text: "A new version is here.", hint: "", bad: false },
        h("button", { class: "quiet", onclick: take }, "Reload"),
      );
  });
}

function dropFiles(take: (files: File[]) => void): void {
  document.addEventListener("dragover", (e) => {
    e.preventDefault();
    document.body.classList.add("dropping");
  });
  document.addEventListener("dragleave", (e) => {
    if (e.relatedTarget === null) document.body.classList.remove("dropping");
  });
  document.addEventListener("drop", (e) => {
    e.preventDefault();
    document.body.classList.remove("dropping");
    if (e.dataTransfer !== null && e.dataTransfer.files.length > 0) take([...e.dataTransfer.files]);
  });
}

/** For tests: the golden images of a served model through the same worker as everything else. */
function hook(app: App): void {
  const lowdino = {
    async embedGolden(name: string) {
      const choice = app.library.choices.find((c) => c.served?.name === name);
      if (choice?.served == null) throw new Error(`the server offers no model '${name}'`);
      await app.use(choice);
      return checkGolden(app.engine, await getJson(choice.served.golden_url));
    },
    settled: () => app.settled(),
  };
  Object.assign(window, { lowdino });
}

void main();

// The viewfinder that Teach and Live share. It shows the square that the network sees and nothing else, so that what
// is in the picture is what counts. Where there is no camera it takes photos.
import type { App } from "../app";
import { Camera, type CameraState, WHY } from "../camera";
import { fill, h, icon } from "../dom";
import { type Picture, pictureOf, readPhoto, seen } from "../picture";

type Idle = Exclude<CameraState, "on" | "starting">;

export class Stage {
  readonly camera: Camera;
  /** A photo was taken or chosen with the stage's own button. */
  onPhotos: (pictures: Picture[]) => void = () => {};
  onChange: () => void = () => {};
  private readonly still = h("img", { class: "still", alt: "the photo", hidden: true });
  private readonly cover = h("div", { class: "cover" });
  private readonly tools = h("div", { class: "tools" });
  private readonly taking = h("input", {
    type: "file",
    accept: "image/*",
    capture: "environment",
    multiple: true,
    class: "file",
    "aria-label": "Take photos",
    tabindex: "-1",
  });
  private answer: ((files: File[]) => void) | null = null;

  constructor(
    private readonly app: App,
    readonly el: HTMLElement,
  ) {
    this.camera = new Camera(() => this.redraw());
    const finder = h("div", { class: "finder" }, this.camera.video, this.still, this.cover, this.tools);
    fill(el, finder, this.taking);
    this.taking.addEventListener("change", () => this.chosen());
    this.taking.addEventListener("cancel", () => this.chosen());
    app.model.watch((active) => {
      // The picture is enlarged so that the finder's edge is the edge of what the network sees.
      if (active !== null) el.style.setProperty("--zoom", String(1 / seen(active.manifest.preprocess)));
    });
    this.redraw();
  }

  /** Without the camera a tap on a class asks for photos. */
  get usesPhotos(): boolean {
    return !["on", "starting", "off"].includes(this.camera.state);
  }

  /** What the camera sees now. */
  take(): Picture | null {
    const image = this.camera.grab();
    if (image === null) return null;
    return pictureOf(image, this.camera.video, this.app.active.manifest.preprocess);
  }

  /** Photos from the device's camera app or its files; empty where the person thinks better of it. */
  async askPhotos(): Promise<Picture[]> {
    const files = await new Promise<File[]>((resolve) => {
      this.answer?.([]);
      this.answer = resolve;
      this.taking.value = "";
      this.taking.click();
    });
    const pictures = await this.read(files);
    const last = files.at(-1);
    if (last !== undefined) this.showStill(last);
    return pictures;
  }

  async read(files: Iterable<File>): Promise<Picture[]> {
    const pictures: Picture[] = [];
    for (const file of files) pictures.push(await readPhoto(file, this.app.active.manifest.preprocess));
    return pictures;
  }

  private chosen(): void {
    this.answer?.([...(this.taking.files ?? [])]);
    this.answer = null;
  }

  private showStill(file: File): void {
    URL.revokeObjectURL(this.still.src);
    this.still.src = URL.createObjectURL(file);
    this.still.hidden = false;
    this.redraw();
  }

  private redraw(): void {
    const { state } = this.camera;
    this.el.dataset["state"] = state;
    if (state === "on") this.still.hidden = true;
    const live = state === "on" || state === "starting";
    this.el.classList.toggle("mirrored", state === "on" && this.camera.facing === "user");
    this.cover.hidden = state === "on" || !this.still.hidden;
    if (state === "starting") fill(this.cover, h("p", {}, "Starting the camera…"));
    else if (!live) fill(this.cover, ...this.lesson(state));
    fill(this.tools, ...(state === "on" ? this.cameraTools() : this.still.hidden ? [] : this.photoTools()));
    this.onChange();
  }

  private lesson(state: Idle): Node[] {
    const start = () => this.app.try(() => this.camera.start());
    const again = state === "off" || state === "busy" || state === "refused";
    return [
      icon("camera"),
      h("p", {}, WHY[state]),
      h(
        "div",
        { class: "row" },
        again && h("button", { class: "primary", onclick: start }, state === "off" ? "Start camera" : "Try again"),
        h("button", { class: again ? "quiet" : "primary", onclick: () => this.photos() }, "Use photos"),
      ),
    ];
  }

  private cameraTools(): Node[] {
    const flip = () => this.app.try(() => this.camera.flip());
    return [
      h("button", { class: "round", "aria-label": "Other camera", title: "Other camera", onclick: flip }, icon("flip")),
    ];
  }

  private photoTools(): Node[] {
    return [h("button", { class: "primary", onclick: () => this.photos() }, icon("camera"), "Next photo")];
  }

  private photos(): void {
    this.app.try(async () => this.onPhotos(await this.askPhotos()));
  }
}

// What the app knows: the model in use, the classes taught to it, and how they are kept. No view in here.
import { ClassStore, DemoError, type Manifest, type StoreJson } from "@lowdino/core";
import { Signal } from "./dom";
import type { Db } from "./db";
import { Engine } from "./engine/client";
import type { Choice, Library } from "./model/library";
import type { Picture } from "./picture";

export interface Active {
  choice: Choice;
  manifest: Manifest;
}

export interface Notice {
  text: string;
  hint: string;
  bad: boolean;
}

const UNDO_STEPS = 30;

export class App {
  readonly model = new Signal<Active | null>(null);
  /** Set again on each change, so that views redraw. */
  readonly classes = new Signal<ClassStore | null>(null);
  readonly notice = new Signal<Notice | null>(null);
  readonly loading = new Signal<string | null>("Starting…");
  engine = new Engine();
  /** Resolves once the server was asked and a model is loaded, or could not be. */
  readonly started: Promise<void>;
  private tellStarted: () => void = () => {};
  private history: StoreJson[] = [];
  private writing: Promise<void> = Promise.resolve();

  constructor(
    readonly db: Db,
    readonly library: Library,
  ) {
    this.started = new Promise((done) => (this.tellStarted = done));
  }

  async start(): Promise<void> {
    try {
      await this.startUp();
    } catch (e) {
      this.loading.set(null);
      this.fault(e);
    } finally {
      this.tellStarted();
    }
  }

  private async startUp(): Promise<void> {
    await this.library.refresh();
    const choice = await this.library.preferred();
    if (choice === null) {
      this.loading.set(null);
      this.say(
        "There is no model yet",
        "open the address that `lowdino serve` prints, or pick a .tflite on the Model page",
        true,
      );
      return;
    }
    await this.use(choice);
  }

  /** Loads a model and the classes that were taught to it. The old one stays in use where that fails. */
  async use(choice: Choice): Promise<void> {
    this.loading.set(`Loading ${choice.name}…`);
    try {
      const { bytes } = await this.library.open(choice);
      await this.engine.load(choice.manifest, bytes);
      const classes = await this.readClasses(choice);
      this.history = [];
      this.model.set({ choice, manifest: choice.manifest });
      this.classes.set(classes);
      await this.library.remember(choice);
    } finally {
      this.loading.set(null);
    }
  }

  private async readClasses({ sha256, manifest }: Choice): Promise<ClassStore> {
    const json = await this.db.get<StoreJson>("classes", sha256);
    if (json === undefined) return new ClassStore(sha256, manifest.embedDim);
    try {
      return ClassStore.fromJSON(json, sha256, manifest.embedDim);
    } catch (e) {
      this.fault(e);
      return new ClassStore(sha256, manifest.embedDim);
    }
  }

  get store(): ClassStore {
    const store = this.classes.value;
    if (store === null) throw new DemoError("no model is loaded", "choose one on the Model page");
    return store;
  }

  get active(): Active {
    const active = this.model.value;
    if (active === null) throw new DemoError("no model is loaded", "choose one on the Model page");
    return active;
  }

  get canUndo(): boolean {
    return this.history.length > 0;
  }

  /** Changes the classes; what was before can be had back, and the new state is written at once. */
  change(work: (store: ClassStore) => void): void {
    const before = this.store.toJSON();
    work(this.store);
    this.history = [...this.history, before].slice(-UNDO_STEPS);
    this.publish(this.store);
  }

  undo(): void {
    const before = this.history.pop();
    if (before === undefined) return;
    this.publish(ClassStore.fromJSON(before, this.store.modelSha256, this.store.embedDim));
  }

  /** Takes the classes of an exported file in place of those that are there; throws and changes nothing if it is bad. */
  importClasses(text: string): ClassStore {
    const read = ClassStore.fromJSON(text, this.store.modelSha256, this.store.embedDim);
    this.history = [...this.history, this.store.toJSON()].slice(-UNDO_STEPS);
    this.publish(read);
    return read;
  }

  async teach(classId: string, picture: Picture): Promise<void> {
    const { embedding } = await this.engine.embed(picture.image, this.active.manifest.preprocess);
    if (!this.store.classes.some((c) => c.id === classId)) return; // deleted meanwhile
    this.change((store) => store.addExample(classId, embedding, picture.thumbnail || undefined));
  }

  private publish(store: ClassStore): void {
    this.classes.set(store);
    const json = store.toJSON();
    this.writing = this.writing
      .then(() => this.db.put("classes", store.modelSha256, json))
      .catch(() => this.say("The classes could not be kept", "free some space, then export them to a file", true));
  }

  /** Resolves when everything that was changed is on the disk. */
  settled(): Promise<void> {
    return this.writing;
  }

  say(text: string, hint = "", bad = false): void {
    this.notice.set({ text, hint, bad });
  }

  fault(e: unknown): void {
    const what = e instanceof Error ? e.message : String(e);
    this.say(sentence(what), e instanceof DemoError ? e.hint : "", true);
    if (!(e instanceof DemoError)) console.error(e);
  }

  /** Runs what a person asked for; a failure is told, never lost. */
  try(work: () => unknown): void {
    void (async () => work())().catch((e: unknown) => this.fault(e));
  }
}

/** Messages start small, as the command line has them; a page starts its sentences large. */
export function sentence(text: string): string {
  return text.charAt(0).toUpperCase() + text.slice(1);
}

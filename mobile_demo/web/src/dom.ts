// A few lines in place of a framework: elements from calls, a value that tells its listeners, an icon set.

type Child = Node | string | null | undefined | false;
type Props = Record<string, unknown>;

/** An element. `on*` functions become listeners, `class`, `aria-*` and the like attributes; true and false as in HTML. */
export function h<K extends keyof HTMLElementTagNameMap>(
  tag: K,
  props: Props = {},
  ...children: Child[]
): HTMLElementTagNameMap[K] {
  const el = document.createElement(tag);
  for (const [key, value] of Object.entries(props)) {
    if (typeof value === "function") el.addEventListener(key.slice(2), value as EventListener);
    else if (value === true) el.setAttribute(key, "");
    else if (value !== false && value !== null && value !== undefined) el.setAttribute(key, String(value));
  }
  fill(el, ...children);
  return el;
}

export function s(tag: string, props: Record<string, string | number> = {}, ...children: Child[]): SVGElement {
  const el = document.createElementNS("http://www.w3.org/2000/svg", tag);
  for (const [key, value] of Object.entries(props)) el.setAttribute(key, String(value));
  fill(el, ...children);
  return el;
}

export function fill(el: Element, ...children: Child[]): void {
  el.replaceChildren(...children.filter((c): c is Node | string => c !== null && c !== undefined && c !== false));
}

/** Sets text only where it differs: live regions speak on every change, and nothing is laid out again for nothing. */
export function setText(el: Element, text: string): void {
  if (el.textContent !== text) el.textContent = text;
}

export class Signal<T> {
  private readonly listeners = new Set<(value: T) => void>();
  constructor(private held: T) {}
  get value(): T {
    return this.held;
  }
  set(value: T): void {
    this.held = value;
    for (const listen of [...this.listeners]) listen(value);
  }
  /** Calls `listen` now and after each change. */
  watch(listen: (value: T) => void): void {
    this.listeners.add(listen);
    listen(this.held);
  }
}

const ICONS = {
  teach: "M12 5v14M5 12h14",
  live: "M2.5 12S6 5.5 12 5.5 21.5 12 21.5 12 18 18.5 12 18.5 2.5 12 2.5 12ZM12 9.2a2.8 2.8 0 1 0 0 5.6 2.8 2.8 0 0 0 0-5.6Z",
  bench: "M12 20a8 8 0 1 1 8-8M12 12l4.5-4.5M12 2v2M4 20h16",
  model: "M12 2.8 20 7v10l-8 4.2L4 17V7ZM4 7l8 4.2L20 7M12 11.2v10",
  undo: "M9 14 4 9l5-5M4 9h10a6 6 0 0 1 0 12h-3",
  more: "M5 12h.01M12 12h.01M19 12h.01",
  camera: "M4 8h3l2-3h6l2 3h3v11H4ZM12 10a3.5 3.5 0 1 0 0 7 3.5 3.5 0 0 0 0-7Z",
  flip: "M4 9a8 8 0 0 1 14-3l2 2M20 4v4h-4M20 15a8 8 0 0 1-14 3l-2-2M4 20v-4h4",
  close: "M6 6l12 12M18 6 6 18",
  trash: "M4 7h16M9 7V4h6v3M6 7l1 13h10l1-13",
  save: "M12 4v11M7 11l5 5 5-5M4 20h16",
  open: "M12 16V5M7 9l5-5 5 5M4 20h16",
  check: "M5 12.5l4.5 4.5L19 7.5",
  file: "M6 3h8l4 4v14H6ZM14 3v4h4",
} as const;
export type IconName = keyof typeof ICONS;

export function icon(name: IconName): SVGElement {
  return s("svg", { viewBox: "0 0 24 24", class: "icon", "aria-hidden": "true" }, s("path", { d: ICONS[name] }));
}

export function megabytes(bytes: number): string {
  return bytes < 1e6 ? `${Math.round(bytes / 1e3)} kB` : `${(bytes / 1e6).toFixed(bytes < 1e7 ? 1 : 0)} MB`;
}

export function milliseconds(ms: number): string {
  return ms < 10 ? ms.toFixed(2) : ms < 100 ? ms.toFixed(1) : ms.toFixed(0);
}

export function plural(n: number, one: string, many = `${one}s`): string {
  return `${n} ${n === 1 ? one : many}`;
}

/** Hands a file to the person: a download, under `name`. */
export function download(name: string, type: string, text: string): void {
  const url = URL.createObjectURL(new Blob([text], { type }));
  h("a", { href: url, download: name }).click();
  setTimeout(() => URL.revokeObjectURL(url), 10_000);
}

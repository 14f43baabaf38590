/** Stand-in for expo-file-system: the same calls, on real files of this machine under a temporary folder. */
import * as fs from "node:fs";
import * as os from "node:os";
import * as path from "node:path";
import { fileURLToPath, pathToFileURL } from "node:url";

type Place = string | File | Directory;

class Entry {
  uri: string;

  constructor(...parts: Place[]) {
    const [first, ...rest] = parts.map((part) => (typeof part === "string" ? part : part.uri));
    this.uri = pathToFileURL(path.join(first!.startsWith("file://") ? fileURLToPath(first!) : first!, ...rest)).href;
  }

  get path(): string {
    return fileURLToPath(this.uri);
  }

  get name(): string {
    return path.basename(this.path);
  }

  get exists(): boolean {
    return fs.existsSync(this.path);
  }
}

export class File extends Entry {
  async text(): Promise<string> {
    return fs.readFileSync(this.path, "utf8");
  }

  async arrayBuffer(): Promise<ArrayBuffer> {
    return new Uint8Array(fs.readFileSync(this.path)).buffer;
  }

  write(content: string | Uint8Array): void {
    fs.writeFileSync(this.path, content);
  }

  async copy(to: File, { overwrite = false } = {}): Promise<void> {
    this.#free(to, overwrite);
    fs.copyFileSync(this.path, to.path);
  }

  async move(to: File, { overwrite = false } = {}): Promise<void> {
    this.#free(to, overwrite);
    fs.renameSync(this.path, to.path);
    this.uri = to.uri; // as the real one does
  }

  delete(): void {
    fs.rmSync(this.path);
  }

  #free(to: File, overwrite: boolean): void {
    if (to.exists && !overwrite) throw new Error(`${to.uri} exists`);
  }
}

export class Directory extends Entry {
  create({ intermediates = false, idempotent = false } = {}): void {
    if (this.exists && !idempotent) throw new Error(`${this.uri} exists`);
    fs.mkdirSync(this.path, { recursive: intermediates || idempotent });
  }

  list(): (File | Directory)[] {
    return fs
      .readdirSync(this.path, { withFileTypes: true })
      .map((entry) => (entry.isDirectory() ? new Directory(this, entry.name) : new File(this, entry.name)));
  }

  delete(): void {
    fs.rmSync(this.path, { recursive: true });
  }
}

let home = "";

/** An empty phone. */
export function wipe(): void {
  if (home) fs.rmSync(home, { recursive: true });
  home = fs.mkdtempSync(path.join(os.tmpdir(), "lowdino native ")); // with a space, as real paths may have
  for (const part of ["documents", "cache", "outside"]) fs.mkdirSync(path.join(home, part));
}

export function clean(): void {
  if (home) fs.rmSync(home, { recursive: true });
  home = "";
}

export const Paths = {
  get document(): Directory {
    return new Directory(path.join(home, "documents"));
  },
  get cache(): Directory {
    return new Directory(path.join(home, "cache"));
  },
};

/** A file that another app offers to the picker. */
export function offered(name: string, content: string | Uint8Array): { name: string; uri: string } {
  const file = new File(path.join(home, "outside", name));
  file.write(content);
  return { name, uri: file.uri };
}

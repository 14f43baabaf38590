// Two build steps: LiteRT's wasm beside the app, and the service worker with the list of what to keep offline.
import { createHash } from "node:crypto";
import { readFileSync, readdirSync } from "node:fs";
import { createRequire } from "node:module";
import { dirname, join, relative } from "node:path";
import { type Plugin, transformWithOxc } from "vite";

const require = createRequire(import.meta.url);
// The package exports no package.json: find it from its entry.
const litertRoot = dirname(dirname(require.resolve("@litertjs/core")));

export const LITERT_VERSION = (
  JSON.parse(readFileSync(join(litertRoot, "package.json"), "utf8")) as { version: string }
).version;
/** The version is in the path, so that these files may be cached for good. */
export const LITERT_FOLDER = `litert-${LITERT_VERSION}`;

// The normal build, and the one for engines without relaxed SIMD (WebKit). The threaded one hangs inside a worker, and
// the JSPI one is only needed to split a network between GPU and CPU: 2.9 MB more for a case that we rather report.
const BUILDS = ["litert_wasm_internal", "litert_wasm_compat_internal"];

export function litertFiles(): Plugin {
  return {
    name: "litert-files",
    generateBundle() {
      for (const name of BUILDS.flatMap((b) => [`${b}.js`, `${b}.wasm`]))
        this.emitFile({
          type: "asset",
          fileName: `${LITERT_FOLDER}/${name}`,
          source: readFileSync(join(litertRoot, "wasm", name)),
        });
    },
  };
}

export function serviceWorker(): Plugin {
  const here = join(import.meta.dirname, "..");
  return {
    name: "service-worker",
    apply: "build",
    enforce: "post",
    async generateBundle(_options, bundle) {
      const files = new Map<string, string | Uint8Array>();
      for (const [name, item] of Object.entries(bundle))
        files.set(name, item.type === "chunk" ? item.code : item.source);
      for (const path of publicFiles(join(here, "public"))) files.set(path, readFileSync(join(here, "public", path)));
      const hash = createHash("sha256");
      for (const name of [...files.keys()].sort())
        hash
          .update(name)
          .update("\0")
          .update(files.get(name) ?? "");
      const source = join(here, "src/sw/sw.ts");
      const { code } = await transformWithOxc(readFileSync(source, "utf8"), source);
      const facts = {
        __BUILD__: hash.digest("hex").slice(0, 12),
        __FILES__: [...files.keys()].sort(),
      };
      const head = Object.entries(facts).map(([k, v]) => `const ${k} = ${JSON.stringify(v)};\n`);
      this.emitFile({ type: "asset", fileName: "sw.js", source: head.join("") + code });
    },
  };
}

function publicFiles(root: string): string[] {
  return readdirSync(root, { recursive: true, withFileTypes: true })
    .filter((e) => e.isFile())
    .map((e) => relative(root, join(e.parentPath, e.name)).replaceAll("\\", "/"));
}

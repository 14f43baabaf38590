import { defineConfig } from "vite";
import { LITERT_FOLDER, LITERT_VERSION, litertFiles, serviceWorker } from "./build/plugins.ts";

export default defineConfig({
  base: "./",
  plugins: [litertFiles(), serviceWorker()],
  define: {
    __LITERT_VERSION__: JSON.stringify(LITERT_VERSION),
    __LITERT_FOLDER__: JSON.stringify(LITERT_FOLDER),
  },
  // A classic worker: LiteRT.js loads its wasm with importScripts, which module workers do not have.
  worker: { format: "iife" },
  build: {
    target: "es2022",
    sourcemap: false,
    assetsInlineLimit: 0,
    modulePreload: { polyfill: false },
    chunkSizeWarningLimit: 1000,
  },
});

// The service worker: keeps the app shell of one build, answers from it, and falls back to it when there is no network.
// __BUILD__ and __FILES__ are put before this text by the build. Models are not here: the app keeps their bytes itself.
declare const __BUILD__: string;
declare const __FILES__: string[];

interface ExtendableEvent extends Event {
  waitUntil(work: Promise<unknown>): void;
}
interface FetchEvent extends ExtendableEvent {
  readonly request: Request;
  respondWith(answer: Promise<Response>): void;
}
interface WorkerScope extends EventTarget {
  readonly registration: { readonly scope: string };
  readonly clients: { claim(): Promise<void> };
  skipWaiting(): Promise<void>;
}

const scope = self as unknown as WorkerScope;
const CACHE = `lowdino-${__BUILD__}`;
const SHELL = new URL("index.html", scope.registration.scope).href;
const NETWORK_MS = 4000;

// (module (func (param v128 v128 v128)...)) with one relaxed SIMD instruction: LiteRT takes its normal build where this
// is valid, the compat build elsewhere. Only the one in use is kept (9 MB each).
const RELAXED_SIMD = new Uint8Array([
  0, 97, 115, 109, 1, 0, 0, 0, 1, 5, 1, 96, 0, 1, 123, 3, 2, 1, 0, 10, 15, 1, 13, 0, 65, 1, 253, 15, 65, 2, 253, 15,
  253, 128, 2, 11,
]);

function wanted(): string[] {
  const unused = WebAssembly.validate(RELAXED_SIMD) ? "/litert_wasm_compat_" : "/litert_wasm_internal";
  return __FILES__.filter((name) => !name.includes(unused)).map((name) => new URL(name, scope.registration.scope).href);
}

scope.addEventListener("install", (event) => {
  (event as ExtendableEvent).waitUntil(
    caches.open(CACHE).then((cache) => cache.addAll(wanted().map((url) => new Request(url, { cache: "no-cache" })))),
  );
});

scope.addEventListener("activate", (event) => {
  (event as ExtendableEvent).waitUntil(
    (async () => {
      for (const name of await caches.keys())
        if (name.startsWith("lowdino-") && name !== CACHE) await caches.delete(name);
      await scope.clients.claim();
    })(),
  );
});

scope.addEventListener("message", (event) => {
  if ((event as MessageEvent).data === "activate") void scope.skipWaiting();
});

scope.addEventListener("fetch", (event) => {
  const { request } = event as FetchEvent;
  const url = new URL(request.url);
  if (request.method !== "GET" || url.origin !== location.origin) return;
  const path = url.pathname.slice(new URL(scope.registration.scope).pathname.length);
  if (path.startsWith("api/") || path.startsWith("models/")) return;
  (event as FetchEvent).respondWith(request.mode === "navigate" ? page(request) : file(request));
});

/** The page from the network, so that a token or a new build gets through; the kept one when that fails or dawdles. */
async function page(request: Request): Promise<Response> {
  const kept = await (await caches.open(CACHE)).match(SHELL);
  if (kept === undefined) return fetch(request);
  const late = new Promise<undefined>((done) => setTimeout(done, NETWORK_MS, undefined));
  const fresh = await Promise.race([fetch(request).catch(() => undefined), late]);
  if (fresh?.type === "opaqueredirect") return fresh; // the browser follows it and asks again
  return isolated(fresh?.ok ? fresh : kept);
}

async function file(request: Request): Promise<Response> {
  const kept = await (await caches.open(CACHE)).match(request, { ignoreSearch: true });
  return isolated(kept ?? (await fetch(request)));
}

/** Cross-origin isolation, whoever served the file: browsers give isolated pages a finer clock, which timing needs. */
function isolated(answer: Response): Response {
  if (answer.status === 0 || answer.redirected) return answer;
  const headers = new Headers(answer.headers);
  headers.set("Cross-Origin-Opener-Policy", "same-origin");
  headers.set("Cross-Origin-Embedder-Policy", "require-corp");
  headers.set("Cross-Origin-Resource-Policy", "same-origin");
  return new Response(answer.body, { status: answer.status, statusText: answer.statusText, headers });
}

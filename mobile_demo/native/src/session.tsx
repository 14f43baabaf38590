/** The state of the app: the model in use, what it was taught, and what went wrong. */
import { DemoError, type ClassStore, type Manifest } from "@lowdino/core";
import { createContext, useCallback, useContext, useEffect, useMemo, useRef, useState, type ReactNode } from "react";

import type { RawFrame } from "./camera/pixels";
import { createEmbedder, type Embedder } from "./model/embedder";
import * as library from "./model/library";
import { prepare, thumbnail } from "./model/picture";
import { problemOf, type Problem } from "./problem";
import * as persist from "./store/persist";

export interface Active {
  manifest: Manifest;
  embedder: Embedder;
  store: ClassStore;
}

export interface Session {
  models: readonly Manifest[];
  active: Active | null;
  busy: string | null; // what the app is doing
  problem: Problem | null;
  dismiss(): void;
  report(error: unknown): void;
  /** Runs one thing at a time; what goes wrong is shown. True where it went well. */
  attempt(what: string, task: () => Promise<void>): Promise<boolean>;
  choose(manifest: Manifest): Promise<boolean>;
  add(install: () => Promise<Manifest>): Promise<boolean>;
  remove(manifest: Manifest): Promise<boolean>;
  /** Changes the taught classes and keeps them. */
  teach(change: (store: ClassStore) => void): Promise<boolean>;
  addExample(classId: string, grab: () => Promise<RawFrame>): Promise<boolean>;
  replaceStore(store: ClassStore): Promise<boolean>;
}

const Context = createContext<Session | null>(null);

export function useSession(): Session {
  const session = useContext(Context);
  if (!session) throw new Error("useSession outside of SessionProvider");
  return session;
}

export function SessionProvider({ children }: { children: ReactNode }) {
  const [models, setModels] = useState<readonly Manifest[]>([]);
  const [active, setActive] = useState<Active | null>(null);
  const [busy, setBusy] = useState<string | null>(null);
  const [problem, setProblem] = useState<Problem | null>(null);
  const current = useRef<Active | null>(null);
  const working = useRef(false);

  const report = useCallback((error: unknown) => setProblem(problemOf(error)), []);

  const attempt = useCallback(
    async (what: string, task: () => Promise<void>) => {
      if (working.current) return false;
      working.current = true;
      setBusy(what);
      setProblem(null);
      try {
        await task();
        return true;
      } catch (error) {
        report(error);
        return false;
      } finally {
        working.current = false;
        setBusy(null);
      }
    },
    [report],
  );

  const use = useCallback((next: Active | null) => {
    if (current.current && current.current.embedder !== next?.embedder) current.current.embedder.dispose();
    current.current = next;
    setActive(next);
  }, []);

  const load = useCallback(
    async (manifest: Manifest) => {
      const embedder = await createEmbedder(await library.open(manifest), manifest);
      try {
        use({ manifest, embedder, store: await persist.loadStore(manifest) });
      } catch (error) {
        if (!(error instanceof DemoError)) throw error;
        await persist.setAside(manifest);
        use({ manifest, embedder, store: await persist.loadStore(manifest) });
        throw new DemoError(
          error.message,
          "it was put aside and teaching begins anew; import an export if you have one",
        );
      } finally {
        if (current.current?.embedder !== embedder) embedder.dispose();
      }
      persist.rememberModel(manifest.sha256);
    },
    [use],
  );

  const refresh = useCallback(async () => {
    const found = await library.list();
    setModels(found.models);
    return found;
  }, []);

  useEffect(() => {
    void attempt("Opening the model", async () => {
      const found = await refresh();
      const last = await persist.lastModel();
      const manifest = found.models.find((m) => m.sha256 === last) ?? found.models[0];
      if (manifest) await load(manifest);
      if (found.broken)
        throw new DemoError(`damaged models on this phone: ${found.broken}`, "choose their files again");
    });
    return () => use(null);
  }, [attempt, load, refresh, use]);

  const actions = useMemo(() => {
    /** The store changes in place; a new object around it tells the views. */
    const teach = (change: (store: ClassStore) => void) =>
      attempt("Saving", async () => {
        const { store, ...rest } = needed(current.current);
        change(store);
        use({ ...rest, store });
        await persist.saveStore(store);
      });
    return {
      teach,
      choose: (manifest: Manifest) => attempt("Loading the model", () => load(manifest)),
      add: (install: () => Promise<Manifest>) =>
        attempt("Checking the model", async () => {
          const manifest = await install();
          await refresh();
          await load(manifest);
        }),
      remove: (manifest: Manifest) =>
        attempt("Removing the model", async () => {
          if (current.current?.manifest.sha256 === manifest.sha256) use(null);
          library.remove(manifest);
          await refresh();
        }),
      addExample: (classId: string, grab: () => Promise<RawFrame>) =>
        attempt("Looking", async () => {
          const { manifest, embedder, store, ...rest } = needed(current.current);
          const { square, input } = prepare(await grab(), manifest.preprocess);
          store.addExample(classId, await embedder.embed(input), thumbnail(square));
          use({ ...rest, manifest, embedder, store });
          await persist.saveStore(store);
        }),
      replaceStore: (store: ClassStore) =>
        attempt("Saving", async () => {
          use({ ...needed(current.current), store });
          await persist.saveStore(store);
        }),
    };
  }, [attempt, load, refresh, use]);

  const session = useMemo(
    () => ({ models, active, busy, problem, dismiss: () => setProblem(null), report, attempt, ...actions }),
    [models, active, busy, problem, report, attempt, actions],
  );
  return <Context.Provider value={session}>{children}</Context.Provider>;
}

function needed(active: Active | null): Active {
  if (!active) throw new DemoError("no model is chosen", "open Model and choose one");
  return active;
}

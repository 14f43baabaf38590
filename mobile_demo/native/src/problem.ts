import { DemoError } from "@lowdino/core";

/** What a person is shown: what went wrong, and how to mend it. */
export interface Problem {
  what: string;
  how: string;
}

/** Codes of react-native-executorch that a person can do something about. */
const RUNTIME_HINTS: Record<string, string> = {
  LOAD_FAILED: "the file is damaged or was made for a newer ExecuTorch; export it again, or update the app",
  EXECUTION_FAILED: "close other apps to free memory; if it stays, export the model again",
  SCHEMA_MISMATCH: "take the model file and the artifact.json of one export",
  RESOURCE_BUSY: "wait a moment and try again",
  RESOURCE_DISPOSED: "choose the model again",
};

export function problemOf(error: unknown): Problem {
  if (error instanceof DemoError) return { what: error.message, how: error.hint };
  const what = error instanceof Error ? error.message : String(error);
  const code = error instanceof Error && "code" in error ? String(error.code) : "";
  return {
    what: what || "something went wrong",
    how: RUNTIME_HINTS[code] ?? "try again; if it stays, start the app anew",
  };
}

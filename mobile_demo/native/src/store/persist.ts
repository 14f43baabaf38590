/** What was taught, kept in documents/classes/SHA256.json, one file for each model; and the choice of the model. */
import { ClassStore, type Manifest } from "@lowdino/core";
import { Directory, File, Paths } from "expo-file-system";

/** The classes taught to this model; empty where there are none yet. Throws DemoError where the file is damaged. */
export async function loadStore({ sha256, embedDim }: Manifest): Promise<ClassStore> {
  const file = new File(root(), `${sha256}.json`);
  if (!file.exists) return new ClassStore(sha256, embedDim);
  return ClassStore.fromJSON(await file.text(), sha256, embedDim);
}

/** Written beside and then moved, so that a full disk does not take what was there. */
export async function saveStore(store: ClassStore): Promise<void> {
  const beside = new File(root(), `${store.modelSha256}.tmp`);
  beside.write(JSON.stringify(store));
  await beside.move(new File(root(), `${store.modelSha256}.json`), { overwrite: true });
}

export async function importStore(uri: string, { sha256, embedDim }: Manifest): Promise<ClassStore> {
  return ClassStore.fromJSON(await new File(uri).text(), sha256, embedDim);
}

/** Puts a damaged file aside, so that teaching can begin anew without losing it. */
export async function setAside({ sha256 }: Manifest): Promise<void> {
  await new File(root(), `${sha256}.json`).move(new File(root(), `${sha256}.damaged`), { overwrite: true });
}

/** A file for the share sheet, in the cache. */
export function fileToShare(name: string, value: unknown): string {
  const file = new File(Paths.cache, name);
  file.write(JSON.stringify(value, null, 1));
  return file.uri;
}

export async function lastModel(): Promise<string | null> {
  const file = new File(root(), "last-model");
  return file.exists ? (await file.text()).trim() : null;
}

export function rememberModel(sha256: string): void {
  new File(root(), "last-model").write(sha256);
}

function root(): Directory {
  const folder = new Directory(Paths.document, "classes");
  folder.create({ intermediates: true, idempotent: true });
  return folder;
}

// What outlives a visit: models, classes and choices in IndexedDB; in memory where the browser keeps nothing.

export type Shelf = "models" | "classes" | "prefs";
const SHELVES: Shelf[] = ["models", "classes", "prefs"];

export class Db {
  private readonly memory = new Map<string, unknown>();
  private constructor(private readonly db: IDBDatabase | null) {}

  static async open(): Promise<Db> {
    try {
      const request = indexedDB.open("lowdino", 1);
      request.onupgradeneeded = () => {
        for (const shelf of SHELVES) request.result.createObjectStore(shelf);
      };
      return new Db(await done(request));
    } catch {
      return new Db(null); // private windows of some browsers have none
    }
  }

  /** Whether what is put here is there after a reload. */
  get lasting(): boolean {
    return this.db !== null;
  }

  async get<T>(shelf: Shelf, key: string): Promise<T | undefined> {
    if (this.db === null) return this.memory.get(`${shelf}/${key}`) as T | undefined;
    return (await done(this.db.transaction(shelf).objectStore(shelf).get(key))) as T | undefined;
  }

  async all<T>(shelf: Shelf): Promise<T[]> {
    if (this.db === null)
      return [...this.memory].filter(([k]) => k.startsWith(`${shelf}/`)).map(([, value]) => value as T);
    return (await done(this.db.transaction(shelf).objectStore(shelf).getAll())) as T[];
  }

  async put(shelf: Shelf, key: string, value: unknown): Promise<void> {
    if (this.db === null) return void this.memory.set(`${shelf}/${key}`, value);
    await finished(this.db, shelf, (store) => store.put(value, key));
  }

  async delete(shelf: Shelf, key: string): Promise<void> {
    if (this.db === null) return void this.memory.delete(`${shelf}/${key}`);
    await finished(this.db, shelf, (store) => store.delete(key));
  }
}

function done<T>(request: IDBRequest<T>): Promise<T> {
  return new Promise((resolve, reject) => {
    request.onsuccess = () => resolve(request.result);
    request.onerror = () => reject(request.error);
  });
}

/** Waits for the transaction, not the request: only then is it on the disk. */
function finished(db: IDBDatabase, shelf: Shelf, work: (store: IDBObjectStore) => void): Promise<void> {
  return new Promise((resolve, reject) => {
    const transaction = db.transaction(shelf, "readwrite");
    transaction.oncomplete = () => resolve();
    transaction.onabort = () => reject(transaction.error);
    work(transaction.objectStore(shelf));
  });
}

/** Stand-in for react-native-worklets: one thread here; what crosses threads on a phone is called a turn later. */
export function createWorkletRuntime(): object {
  return {};
}

export async function runOnRuntimeAsync<A extends unknown[], R>(
  _runtime: object,
  task: (...args: A) => R,
  ...args: A
): Promise<R> {
  await null;
  return task(...args);
}

export function scheduleOnRN<A extends unknown[]>(task: (...args: A) => void, ...args: A): void {
  queueMicrotask(() => task(...args));
}

export function createSynchronizable<T>(value: T) {
  return {
    getBlocking: () => value,
    setBlocking(next: T) {
      value = next;
    },
  };
}

// The server's answers, or one sentence why there is none. Cookies go along by themselves: same origin.
import { DemoError, type ErrorReply } from "@lowdino/core";

/** No answer at all: offline, or the server has ended. */
export class Unreachable extends DemoError {}

export async function request(path: string, init: RequestInit = {}, timeoutMs = 30_000): Promise<Response> {
  let answer: Response;
  try {
    answer = await fetch(new URL(path, document.baseURI), { ...init, signal: AbortSignal.timeout(timeoutMs) });
  } catch {
    throw new Unreachable(
      "the computer that runs `lowdino serve` does not answer",
      "start it again, on the same network",
    );
  }
  if (answer.ok) return answer;
  const reply = (await answer.json().catch(() => ({}))) as Partial<ErrorReply>;
  throw new DemoError(
    reply.error ?? `the server answers ${answer.status} to ${path}`,
    reply.hint ?? "start `lowdino serve` again",
  );
}

export async function getJson<T>(path: string, timeoutMs?: number): Promise<T> {
  const answer = await request(path, { cache: "no-store" }, timeoutMs);
  try {
    return (await answer.json()) as T;
  } catch {
    throw new DemoError(`the answer to ${path} is no JSON`, "open the address that `lowdino serve` printed");
  }
}

export async function getBytes(path: string): Promise<ArrayBuffer> {
  const answer = await request(path, { cache: "no-store" }, 120_000);
  try {
    return await answer.arrayBuffer();
  } catch {
    throw new Unreachable("the connection broke off", "try again");
  }
}

export async function post<T>(path: string, body: BodyInit, type: string): Promise<T> {
  const answer = await request(path, { method: "POST", body, headers: { "Content-Type": type } }, 120_000);
  return (await answer.json()) as T;
}

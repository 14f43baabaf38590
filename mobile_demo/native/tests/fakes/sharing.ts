/** Stand-in for the system's share sheet: keeps what it was given. */
import { readFileSync } from "node:fs";
import { fileURLToPath } from "node:url";

export const shared: { name: string; text: string }[] = [];

export async function shareAsync(uri: string): Promise<void> {
  const path = fileURLToPath(uri);
  shared.push({ name: path.split("/").pop()!, text: readFileSync(path, "utf8") });
}

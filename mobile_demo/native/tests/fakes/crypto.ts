/** Stand-in for expo-crypto: node's own SHA-256. */
import { createHash } from "node:crypto";

export const CryptoDigestAlgorithm = { SHA256: "SHA-256" } as const;

export async function digest(_algorithm: "SHA-256", data: ArrayBuffer): Promise<ArrayBuffer> {
  return new Uint8Array(createHash("sha256").update(new Uint8Array(data)).digest()).buffer;
}

import fc from "fast-check";
import { describe, expect, it } from "vitest";

import { encodeResult, floatsFromBase64, floatsToBase64, fromBase64, toBase64, type ResultHeader } from "../src/index";
import { utf8 } from "../src/bytes";
import { bytes, floats, golden } from "./golden";

interface Result {
  header: ResultHeader;
  bank: string;
  query: string;
  body: string;
}

const result = golden<Result>("result");
const anyText = fc.string({ unit: "binary" });

describe("encodeResult", () => {
  const { header } = result;

  it("is the body that Python reads", () => {
    const body = encodeResult(header, floats(result.bank), floats(result.query));
    const wanted = bytes(result.body);
    expect(Buffer.from(body).equals(Buffer.from(wanted))).toBe(true);
    expect(floats(result.bank)[1]).toBe(-0); // the vectors hold what is easily lost
  });

  it("refuses embeddings that are not as many as the header says", () => {
    expect(() => encodeResult(header, floats(result.query), floats(result.query))).toThrow(RangeError);
    const more = { ...header, n_query: 3 };
    expect(() => encodeResult(more, floats(result.bank), floats(result.query))).toThrow(RangeError);
  });

  it("carries no embeddings where the images are not at hand", () => {
    const body = encodeResult({ ...header, n_bank: 0, n_query: 0 }, new Float32Array(), new Float32Array());
    expect(new DataView(body.buffer).getUint32(0, true)).toBe(body.length - 4);
  });
});

describe("bytes", () => {
  it("writes UTF-8 as the platform does, half surrogates too", () => {
    const encoder = new TextEncoder();
    const check = (text: string): void => {
      expect(Array.from(utf8(text))).toEqual(Array.from(encoder.encode(text)));
    };
    fc.assert(fc.property(anyText, check));
    check("a\ud800b");
  });

  it("writes and reads base64 as the platform does", () => {
    fc.assert(
      fc.property(fc.uint8Array({ maxLength: 50 }), (data) => {
        const text = Buffer.from(data).toString("base64");
        expect(toBase64(data)).toBe(text);
        expect(Array.from(fromBase64(text)!)).toEqual(Array.from(data));
      }),
    );
  });

  it.each(["A", "AA", "AAA", "AA=A", "A===", "====", "AAA?", "AA A", "AAAA\n", "AB==", "AAB=", "ÀAAA", "AAAAA==="])(
    "refuses %j, which is no whole canonical base64",
    (text) => expect(fromBase64(text)).toBeNull(),
  );

  it("carries float32 as numpy does", () => {
    expect(floatsToBase64(floats(result.bank))).toBe(result.bank);
    expect(floatsFromBase64(result.bank)).toEqual(floats(result.bank));
    expect(floatsFromBase64("AAAA")).toBeNull(); // three bytes
  });
});

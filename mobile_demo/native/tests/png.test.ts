import { crc32, inflateSync } from "node:zlib";

import { png, pngDataUrl } from "../src/model/png";

function chunks(file: Uint8Array) {
  const view = new DataView(file.buffer);
  const found: { type: string; body: Uint8Array }[] = [];
  for (let at = 8; at < file.length;) {
    const n = view.getUint32(at);
    const named = file.subarray(at + 4, at + 8 + n);
    expect(view.getUint32(at + 8 + n)).toBe(crc32(Buffer.from(named)));
    found.push({ type: Buffer.from(named.subarray(0, 4)).toString(), body: named.subarray(4) });
    at += 12 + n;
  }
  return found;
}

test.each([
  [3, 2],
  [48, 48],
  [200, 150], // more than one block
])("a %i x %i picture is read back by zlib", (width, height) => {
  const data = Uint8Array.from({ length: 3 * width * height }, (_, i) => (i * 7) % 256);
  const [header, body, end] = chunks(png({ data, width, height }));
  expect(Array.from(header!.body)).toEqual([0, 0, 0, width, 0, 0, 0, height, 8, 2, 0, 0, 0]);
  const rows = inflateSync(body!.body); // checks adler32 too
  expect(rows.length).toBe((3 * width + 1) * height);
  for (let y = 0; y < height; y++) {
    const row = rows.subarray((3 * width + 1) * y, (3 * width + 1) * (y + 1));
    expect(row[0]).toBe(0);
    expect(Buffer.compare(row.subarray(1), Buffer.from(data.subarray(3 * width * y, 3 * width * (y + 1))))).toBe(0);
  }
  expect(end!.type).toBe("IEND");
});

test("as an address that core's class store takes", () => {
  const url = pngDataUrl({ data: new Uint8Array(3), width: 1, height: 1 });
  expect(url).toMatch(/^data:image\/png;base64,iVBORw0KGgo/);
});

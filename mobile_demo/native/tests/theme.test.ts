import { dark, light, THUMB, type Theme } from "../src/ui/theme";

function luminance(hex: string): number {
  const [r, g, b] = [1, 3, 5].map((at) => {
    const c = parseInt(hex.slice(at, at + 2), 16) / 255;
    return c <= 0.03928 ? c / 12.92 : ((c + 0.055) / 1.055) ** 2.4;
  });
  return 0.2126 * r! + 0.7152 * g! + 0.0722 * b!;
}

function contrast(a: string, b: string): number {
  const [low, high] = [luminance(a), luminance(b)].sort((x, y) => x - y);
  return (high! + 0.05) / (low! + 0.05);
}

const PAIRS: [keyof Theme, keyof Theme][] = [
  ["text", "background"],
  ["text", "surface"],
  ["muted", "background"],
  ["muted", "surface"],
  ["accent", "surface"],
  ["danger", "surface"],
  ["onAccent", "accent"],
  ["onDanger", "danger"],
];

test.each([
  ["light", light],
  ["dark", dark],
])("every text of the %s theme is readable (WCAG AA)", (_name, theme) => {
  for (const [ink, ground] of PAIRS)
    expect(`${ink} on ${ground}: ${contrast(theme[ink], theme[ground]) >= 4.5}`).toMatch(/true$/);
});

test("controls are as large as a thumb", () => {
  expect(THUMB).toBeGreaterThanOrEqual(48);
});

"""docs/matrix.svg: the matrix at one glance. Colours follow the reader's light or dark mode; no script, no fonts."""

from __future__ import annotations

from html import escape

from matrix_table import Row
from matrix_text import number

LEFT, TOP, WIDE, HIGH, GAP, LEGEND, LEGEND_WIDE = 216, 62, 50, 28, 10, 34, 1150.0
BINS = (0.25, 0.5, 0.75, 1.0)  # points of kNN; above the last is over the budget
STYLE = """
svg{--ink:#17202c;--soft:#566275;--paper:#fff;--edge:#dde2ea;--hatch:#b9c1cc;--bad:#c0342b;
--b0:#a9dcc6;--b1:#d9f0e5;--b2:#f6e3a1;--b3:#f2b66d;--b4:#e06a55;--plain:#eef1f5;--on:#17202c}
@media(prefers-color-scheme:dark){svg{--ink:#e6ebf2;--soft:#9aa8ba;--paper:#18202a;--edge:#2b3644;--hatch:#4a586a;
--bad:#ff7b70;--b0:#1f6b50;--b1:#184636;--b2:#6b5a14;--b3:#8a5314;--b4:#9c3226;--plain:#243040;--on:#f2f5f9}}
.paper{fill:var(--paper)}text{font:13px system-ui,-apple-system,"Segoe UI",Roboto,sans-serif;fill:var(--soft)}
.name,.target{fill:var(--ink)}.target{font-weight:600;font-size:14px}.in{fill:var(--on);font-size:12px}
.small{font-size:11px}.instead{fill:var(--ink);font-size:10.5px;font-style:italic}.bad{fill:var(--bad);font-weight:600}
.plain{fill:var(--plain)}.b0{fill:var(--b0)}.b1{fill:var(--b1)}.b2{fill:var(--b2)}.b3{fill:var(--b3)}.b4{fill:var(--b4)}
.no{fill:url(#hatch)}.empty{fill:none;stroke:var(--edge)}.hatch{stroke:var(--hatch);stroke-width:2}
"""


def draw(made: Row) -> str:
    columns = list(dict.fromkeys((r["target"], r["scheme"]) for r in made["rows"]))
    cells = {(r["student"], r["target"], r["scheme"]): r for r in made["rows"]}
    x, width = _columns(columns)
    parts, y, family = [_heads(columns, x)], float(TOP), ""
    for s in sorted(made["students"], key=lambda s: ("cnn", "hybrid", "vit").index(s["family"])):
        if s["family"] != family:
            y += GAP if family else 0
            family = s["family"]
            parts.append(f'<text class="small" x="8" y="{y + 18:g}">{escape(family)}</text>')
        parts.append(f'<text class="name" x="{LEFT - 8}" y="{y + 18:g}" text-anchor="end">{escape(s["id"])}</text>')
        parts += [_cell(cells[s["id"], t, c], x[t, c], y) for t, c in columns if (s["id"], t, c) in cells]
        y += HIGH
    parts.append(_legend(y + 26))
    height = y + 26 + LEGEND
    hatch = (
        '<pattern id="hatch" width="6" height="6" patternUnits="userSpaceOnUse" patternTransform="rotate(45)">'
        '<path class="hatch" d="M0 0V6"/></pattern>'
    )
    title = "Points of kNN that each student loses, by target and scheme"
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width:g} {height:g}" width="{width:g}" '
        f'height="{height:g}" role="img" aria-label="{title}"><title>{title}</title><style>{STYLE}</style>'
        f'<defs>{hatch}</defs><rect class="paper" width="100%" height="100%" rx="10"/>{"".join(parts)}</svg>\n'
    )


def _columns(columns: list[tuple[str, str]]) -> tuple[dict[tuple[str, str], float], float]:
    """Left edge of every column, a gap between targets; and where the last one ends."""
    x, at, before = {}, float(LEFT), ""
    for target, scheme in columns:
        at += GAP if before not in ("", target) else 0
        x[target, scheme], before = at, target
        at += WIDE
    return x, max(at + 14, LEGEND_WIDE)


def _heads(columns: list[tuple[str, str]], x: dict[tuple[str, str], float]) -> str:
    parts = []
    for target in dict.fromkeys(t for t, _ in columns):
        own = [x[c] for c in columns if c[0] == target]
        middle = (own[0] + own[-1] + WIDE) / 2
        parts.append(f'<text class="target" x="{middle:g}" y="26" text-anchor="middle">{escape(target)}</text>')
    for (_, scheme), left in x.items():
        middle = left + WIDE / 2
        parts.append(f'<text class="small" x="{middle:g}" y="50" text-anchor="middle">{escape(scheme)}</text>')
    return "".join(parts)


def _cell(r: Row, x: float, y: float) -> str:
    kind, text, look = _look(r)
    box = f'<rect class="{kind}" x="{x + 1:g}" y="{y + 1:g}" width="{WIDE - 2}" height="{HIGH - 2}" rx="4"/>'
    word = f'<text class="{look}" x="{x + WIDE / 2:g}" y="{y + 18:g}" text-anchor="middle">{escape(text)}</text>'
    return f"<g><title>{escape(_tip(r))}</title>{box}{word if text else ''}</g>"


def _look(r: Row) -> tuple[str, str, str]:
    """Class of the box, text, class of the text."""
    if r["status"] == "not run":
        return "empty", "", "in"
    if r["status"] == "refused":
        return "no", r["use"][0] if r["use"] else "no", "instead"
    if r["status"] != "proven":
        return "no", "!", "bad"
    drop = r.get("knn_drop")
    if drop is None:
        return "plain", "✓", "in"
    return f"b{sum(drop > b for b in BINS)}", number(drop, 1), "in"


def _tip(r: Row) -> str:
    name = f"{r['student']}, {r['target']}-{r['scheme']}: {r['status']}"
    if r["status"] == "proven":
        return f"{name}, cosine {r['cosine_mean']:.5f}, kNN drop {number(r.get('knn_drop'), 2, 'not measured')}"
    return f"{name}{': ' + r['message'] if 'message' in r else ''}"


def _legend(y: float) -> str:
    edges = ["up to " + str(BINS[0]), *(f"to {b:g}" for b in BINS[1:]), f"over {BINS[-1]:g}"]
    keys = [(f"b{i}", text, 96.0 if i == 0 else 74.0) for i, text in enumerate(edges)]
    keys += [("plain", "✓ proven, kNN not measured", 196.0), ("no", "refused, and the scheme export names", 254.0)]
    keys += [("no", "! crashed", 90.0), ("empty", "not run", 80.0)]
    parts, x = [f'<text x="8" y="{y + 12:g}">points of kNN lost</text>'], 136.0
    for kind, text, width in keys:
        parts.append(f'<rect class="{kind}" x="{x:g}" y="{y:g}" width="18" height="16" rx="3"/>')
        parts.append(f'<text class="small" x="{x + 24:g}" y="{y + 12:g}">{escape(text)}</text>')
        x += width
    return "".join(parts)

"""The shell of the report: one HTML file that fetches nothing and runs nothing, dark or light as the reader has it."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape
from typing import Any

STYLE = """
:root{color-scheme:light dark;--bg:#f6f7f9;--card:#fff;--ink:#17202c;--soft:#566275;--edge:#dde2ea;--grid:#e8ecf1;
--accent:#0b6e74;--good:#1d7f3f;--bad:#c0342b;--warn:#fff4d6;--warn-ink:#6a4a00;
--c0:#0b7285;--c1:#c2561a;--c2:#5f3dc4;--c3:#2b7a2b;--c4:#6c7685}
@media(prefers-color-scheme:dark){:root{--bg:#10151c;--card:#18202a;--ink:#e6ebf2;--soft:#9aa8ba;--edge:#2b3644;
--grid:#263140;--accent:#4cc3c9;--good:#56c878;--bad:#ff7b70;--warn:#3a2f10;--warn-ink:#f3d68a;
--c0:#3bc9db;--c1:#ffa94d;--c2:#b197fc;--c3:#69db7c;--c4:#a5b1c2}}
*{box-sizing:border-box}
body{margin:0;background:var(--bg);color:var(--ink);font:16px/1.5 system-ui,-apple-system,"Segoe UI",Roboto,sans-serif}
main{max-width:1080px;margin:0 auto;padding:28px 18px 60px}
h1{font-size:1.7rem;line-height:1.2;margin:0 0 4px;overflow-wrap:anywhere}
h2{font-size:1.2rem;margin:0 0 10px}
h3{font-size:1rem;margin:18px 0 6px;color:var(--soft);font-weight:600}
section{background:var(--card);border:1px solid var(--edge);border-radius:12px;padding:18px;margin:16px 0}
p{margin:6px 0 10px;max-width:75ch}
.sub,.note,.missing,small{color:var(--soft)}
.missing{font-style:italic}
.say{font-size:1.05rem}
.advice{font-size:1.05rem;border-left:4px solid var(--accent);padding:2px 0 2px 14px;margin:6px 0 16px;max-width:90ch;
overflow-wrap:anywhere}
ul{margin:8px 0;padding-left:1.2em;max-width:90ch}li{margin:5px 0;overflow-wrap:anywhere}
.warn{background:var(--warn);color:var(--warn-ink);border-radius:8px;padding:8px 12px}
.chip{display:inline-block;border-radius:14px;padding:1px 10px;font-size:.82rem;font-weight:600;
border:1px solid currentColor;margin-right:6px}
.chip.ok{color:var(--good)}.chip.no{color:var(--bad)}
.tiles{display:grid;grid-template-columns:repeat(auto-fit,minmax(148px,1fr));gap:12px;margin:16px 0}
.tile{background:var(--card);border:1px solid var(--edge);border-radius:12px;padding:12px 14px}
.tile b{display:block;font-size:1.5rem;line-height:1.25;color:var(--accent);font-variant-numeric:tabular-nums}
.tile b.none{color:var(--soft);font-size:1rem;line-height:1.95rem}
.tile span{font-size:.84rem;color:var(--soft);display:block;line-height:1.35}
.charts{display:grid;grid-template-columns:repeat(auto-fit,minmax(min(100%,400px),1fr));gap:16px}
.charts.few{grid-template-columns:repeat(auto-fill,minmax(min(100%,400px),1fr))}
figure{margin:0}.sheet{max-width:100%;height:auto;border-radius:6px}
figcaption{font-size:.9rem;font-weight:600;margin-bottom:4px}
svg{display:block;width:100%;height:auto}
.picture img{display:block;max-width:100%;height:auto;background:#fff;border:1px solid var(--edge);border-radius:6px}
.picture figcaption{font-weight:400;color:var(--soft);margin:4px 0 8px;max-width:75ch}
.picture.wide{grid-column:1/-1}
.split{display:grid;grid-template-columns:minmax(0,3fr) minmax(0,2fr);gap:22px;align-items:center}
@media(max-width:820px){.split{grid-template-columns:minmax(0,1fr)}}
svg text{fill:var(--soft);font:13px system-ui,sans-serif}
svg .name{fill:var(--ink);font-size:12px}svg .bold{font-weight:700}
svg .grid{stroke:var(--grid)}
svg .level{stroke:var(--soft);stroke-dasharray:5 4}
svg .line{fill:none;stroke-width:2.2;stroke-linejoin:round}
svg .front{fill:none;stroke:var(--ink);stroke-width:1.2;stroke-dasharray:2 4}
.c0{--c:var(--c0)}.c1{--c:var(--c1)}.c2{--c:var(--c2)}.c3{--c:var(--c3)}.c4{--c:var(--c4)}
.line{stroke:var(--c)}.mark{fill:var(--c)}
.bubble{fill:var(--c);fill-opacity:.55;stroke:var(--c);stroke-width:1.5}
.bubble.hollow{fill-opacity:.12}
.bubble.on-front{stroke:var(--ink);stroke-width:2.2}
svg .band{fill:var(--accent);fill-opacity:.1}
svg .whisker{stroke:var(--c);stroke-width:1.6}
svg .dots{fill:none;stroke:var(--c);stroke-width:3.4;stroke-linecap:round;stroke-opacity:.45}
svg .tickmark{stroke:var(--ink);stroke-width:1.6}
.key{font-weight:400;color:var(--soft);margin-left:12px;white-space:nowrap}
.swatch{display:inline-block;width:11px;height:11px;border-radius:50%;background:var(--c);border:2px solid var(--c);
margin-right:5px;vertical-align:-1px}
.swatch.hollow{background:none}
.swatch.band{--c:var(--accent);border-radius:2px;opacity:.35}
.keys{display:flex;flex-wrap:wrap;gap:2px 0;margin:6px 0}.keys .key{margin:0 14px 0 0}
.scroll{overflow-x:auto}
table{border-collapse:collapse;width:100%;font-size:.9rem;font-variant-numeric:tabular-nums}
th,td{text-align:right;padding:6px 8px;border-bottom:1px solid var(--edge);vertical-align:top}
td>span{text-wrap:balance}
th{font-size:.8rem;color:var(--soft);font-weight:600;vertical-align:bottom}
th:first-child,td:first-child,td.text,th.text{text-align:left}
td:first-child{font-weight:600}td:first-child>span{white-space:nowrap}
td small{display:block;font-weight:400;line-height:1.3;white-space:nowrap}
.pictures{display:grid;gap:5px;margin:12px 0}
.tilepic{min-width:0;font-size:.74rem;line-height:1.25;color:var(--soft);text-align:center}
.tilepic img{display:block;width:100%;border-radius:6px;border:3px solid transparent;background:var(--edge)}
.pixelated img{image-rendering:pixelated}
.tilepic.hit img{border-color:var(--good)}.tilepic.miss img{border-color:var(--bad)}
.tilepic span{display:block;overflow:hidden;text-overflow:ellipsis;white-space:nowrap}
.tilepic.ask{padding-right:6px}.tilepic.ask span{color:var(--ink);font-weight:600}
.hit i{color:var(--good)}.miss i{color:var(--bad)}i{font-style:normal}
dl{display:grid;grid-template-columns:max-content 1fr;gap:4px 18px;margin:8px 0;font-size:.92rem}
dt{color:var(--soft)}dd{margin:0;overflow-wrap:anywhere}
details{margin:8px 0}summary{cursor:pointer;color:var(--accent)}
pre{overflow-x:auto;background:var(--bg);border-radius:8px;padding:12px;font-size:.82rem;line-height:1.45}
@media(max-width:640px){svg text{font-size:15px}svg .name{font-size:13px}
main{padding:18px 12px 40px}section{padding:14px 12px}
.tiles{grid-template-columns:1fr 1fr;gap:8px}dl{grid-template-columns:1fr;gap:0}dd{margin-bottom:6px}
.cards thead{display:none}.cards,.cards tbody,.cards tr,.cards td{display:block}
.cards tr{border:1px solid var(--edge);border-radius:8px;margin:8px 0;padding:6px 10px}
.cards td{border:0;padding:2px 0;display:flex;justify-content:space-between;gap:14px;text-align:right}
.cards td:first-child{font-size:1rem}
.cards td[data-label]:not(:first-child)::before{content:attr(data-label);color:var(--soft);text-align:left}
.cards td small{display:inline;margin-left:4px}.cards td .many small{display:block}
.tilepic span{font-size:.62rem}.tilepic img{border-width:2px}}
@media print{section{break-inside:avoid}}
"""


def page(title: str, body: str) -> str:
    """The whole document. `body` is markup; its policy forbids scripts and every kind of fetch."""
    policy = "default-src 'none'; img-src data:; style-src 'unsafe-inline'"
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        f'<meta http-equiv="Content-Security-Policy" content="{policy}">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{escape(title)}</title><style>{STYLE}</style></head>\n<body><main>\n{body}\n</main></body></html>\n"
    )


def section(title: str, *parts: str) -> str:
    inner = "\n".join(p for p in parts if p)
    return f"<section><h2>{escape(title)}</h2>\n{inner}\n</section>" if inner else ""


def para(text: str, kind: str = "") -> str:
    return f'<p class="{kind}">{escape(text)}</p>' if kind else f"<p>{escape(text)}</p>"


def missing(what: str, how: str = "") -> str:
    """The line that stands where a part would be."""
    return para(f"{what}: not measured{'. ' + how if how else '.'}", "missing")


def bullets(items: Sequence[str]) -> str:
    """A list of sentences; "" where there are none."""
    return f"<ul>{''.join(f'<li>{escape(i)}</li>' for i in items)}</ul>" if items else ""


def details(summary: str, inner: str) -> str:
    """Markup that a click unfolds; "" where there is none."""
    return f"<details><summary>{escape(summary)}</summary>{inner}</details>" if inner else ""


def tile(value: str | None, text: str) -> str:
    shown = f"<b>{escape(value)}</b>" if value is not None else '<b class="none">not measured</b>'
    return f'<div class="tile">{shown}<span>{escape(text)}</span></div>'


def facts_list(items: Sequence[tuple[str, Any]]) -> str:
    """Name and value pairs; a value of None is left out."""
    rows = "".join(f"<dt>{escape(k)}</dt><dd>{escape(str(v))}</dd>" for k, v in items if v is not None)
    return f"<dl>{rows}</dl>" if rows else ""


def table(head: Sequence[str], rows: Sequence[Sequence[str | tuple[str, ...]]]) -> str:
    """A table that becomes a stack of cards on a phone. A cell is text, or text and smaller lines below it."""
    top = "".join(f"<th>{escape(h)}</th>" for h in head)
    lines = []
    for row in rows:
        cells = "".join(f'<td data-label="{escape(h)}">{_cell(c)}</td>' for h, c in zip(head, row, strict=True))
        lines.append(f"<tr>{cells}</tr>")
    return (
        f'<div class="scroll"><table class="cards"><thead><tr>{top}</tr></thead>'
        f"<tbody>{''.join(lines)}</tbody></table></div>"
    )


def _cell(cell: str | tuple[str, ...]) -> str:
    if isinstance(cell, str):
        return f"<span>{escape(cell)}</span>"
    lines = [line for line in cell[1:] if line]
    small = "".join(f"<small>{escape(line)}</small>" for line in lines)
    return f"<span{' class=many' if len(lines) > 1 else ''}>{escape(cell[0])}{small}</span>"

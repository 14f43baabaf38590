"""docs/losses.md and docs/losses.svg, from docs/losses.json."""

from __future__ import annotations

from html import escape
from typing import Any

from lowdino_edge.plots import HEIGHT, WIDTH, Level, Series, line_chart

SSL = "self-supervised"
STYLE = """
svg{--ink:#17202c;--soft:#566275;--paper:#fff;--grid:#dde2ea;--c0:#2f6fde;--c1:#d9822b}
@media(prefers-color-scheme:dark){
svg{--ink:#e6ebf2;--soft:#9aa8ba;--paper:#18202a;--grid:#2b3644;--c0:#6ea3ff;--c1:#f0a85c}}
.paper{fill:var(--paper)}text{font:12px system-ui,-apple-system,"Segoe UI",Roboto,sans-serif;fill:var(--soft)}
.grid{stroke:var(--grid)}.level{stroke:var(--soft);stroke-dasharray:5 4}
.line{fill:none;stroke-width:2.2;stroke:var(--c)}.mark{fill:var(--c)}.c0{--c:var(--c0)}.c1{--c:var(--c1)}.key0{fill:var(--c0)}.key1{fill:var(--c1)}
"""


def markdown(made: dict[str, Any]) -> str:
    rows = [r for r in made["rows"] if not r["name"].startswith("long")]
    long = [r for r in made["rows"] if r["name"].startswith("long")]
    if not rows:
        return "Nothing was measured.\n"
    first, teacher, protocol = rows[0], made["teacher"], rows[0]["protocol"]
    lines = [
        "# The losses of distillation, compared",
        "",
        f"`make losses`, recipe `{made['recipe']}`: {first['student']} ({first['params'] / 1e6:.2f}M parameters) from "
        f"random weights at {protocol['image_size']} px, {first['n_bank']:,} images, {first['epochs']:g} epochs each, "
        f"one run and one seed, one thread of {made['machine']['cpu']}, torch {made['machine']['torch']}. "
        f"kNN: k {protocol['k']}, cosine, bank {first['n_bank']:,}, queries {first['n_query']:,}.",
        "",
    ]
    if teacher.get("top1") is not None:
        lines += [
            f"Teacher: {teacher['id']} at {teacher['protocol']['image_size']} px, "
            f"kNN {percent(teacher['top1'])} by the same bank.",
            "",
        ]
    error = 100 * (first["knn"] * (1 - first["knn"]) / first["n_query"]) ** 0.5
    lines += ["| loss | kNN | reads labels |", "|---|---|---|"]
    lines += [_line(r) for r in sorted(rows, key=lambda r: -r["knn"])]
    lines += ["", f"The standard error of a row is {error:.1f} points."]
    ssl = next((r for r in rows if r["name"] == SSL), None)
    if ssl is not None:
        lines[-1] += (
            f" Self-supervision (SimCLR, the recipe's `train:`) saw the images {ssl['epochs']:g} times, in "
            f"{ssl['seconds']:.0f} s of student time; `{first['name']}` took {first['seconds']:.0f} s."
        )
    if made["missing"]:
        lines += ["", "Not run: " + ", ".join(f"`{name}`" for name in made["missing"]) + "."]
    if made["set"]:
        lines += ["", "Set for every row: " + ", ".join(f"`{kv}`" for kv in made["set"]) + "."]
    if long:
        lines += ["", "## Longer", "", "| run | kNN | epochs | student time, s |", "|---|---|---|---|"]
        lines += [f"| {r['name']} | {percent(r['knn'])} | {r['epochs']:g} | {r['seconds']:.0f} |" for r in long]
        lines += ["", "![kNN over student training time](losses.svg)"]
        if told := teacher.get("while_training"):
            lines += [
                "",
                f"The curve, its teacher's line too, is measured on a bank of {told['n_bank']:,} and "
                f"{told['n_query']:,} queries, so it lies below the table.",
            ]
    lines += [
        "",
        "Student time is that of training steps alone, at the speed of their fastest tenth (the machine had other work "
        "during some rows); the teacher's pass happens once, before, and is kept.",
    ]
    return "\n".join(lines) + "\n"


def percent(share: float) -> str:
    return f"{100 * share:.2f}%"


def _line(r: dict[str, Any]) -> str:
    name = f"**{r['name']}**" if r["name"] == SSL else f"`{r['name']}`"
    return f"| {name} | {percent(r['knn'])} | {'yes' if r['labels'] else 'no'} |"


def chart(made: dict[str, Any]) -> str:
    """kNN over student training time, of the long runs; their teacher as a level."""
    names = {"long": "distilled", "long self-supervised": "self-supervised"}
    series = []
    for r in made["rows"]:
        if r["name"] in names and r["curve"]:
            x = [p["epoch"] / r["epochs"] * r["seconds"] / 60 for p in r["curve"]]
            series.append(Series(names[r["name"]], x, [100 * p["knn"] for p in r["curve"]], len(series), marks=True))
    told = made["teacher"].get("while_training")
    levels = [Level(100 * told["top1"], f"its teacher, {made['teacher']['id']}")] if told else []
    x_label = "student training time, minutes of one CPU thread"
    drawn = line_chart(series, title="kNN", x_label=x_label, y_label="kNN top-1, %", levels=levels)
    inner = drawn.partition("<svg")[2].partition(">")[2].partition("</svg>")[0]
    keys = "".join(
        f'<rect class="key{s.colour}" x="{300}" y="{190 + 20 * s.colour}" width="11" height="11"/>'
        f'<text x="{318}" y="{200 + 20 * s.colour}">{escape(s.name)}</text>'
        for s in series
    )
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" width="{2 * WIDTH}" role="img" '
        f'aria-label="kNN over student training time"><style>{STYLE}</style>'
        f'<rect class="paper" width="{WIDTH}" height="{HEIGHT}" rx="6"/>{inner}{keys}</svg>\n'
    )

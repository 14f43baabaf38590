"""What curation decided, as lists, sheets and a page. Nothing here decides anything.

curated.csv is a SRC of its own: `lowdino train --data OUT/curated.csv`. removed.csv and found.csv say why.
"""

from __future__ import annotations

import base64
import csv
import io
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from lowdino_edge.curate.gallery import Gallery
from lowdino_edge.curate.groups import Removed
from lowdino_edge.curate.judging import FIGURES
from lowdino_edge.curate.retrieve import Found
from lowdino_edge.curate.sheets import Pair, Row, pairs_sheet, rows_sheet
from lowdino_edge.data.imageset import BrokenImage, ImageSet, printable
from lowdino_edge.report.page import facts_list, page, para, section, table, tile
from lowdino_edge.run import atomic_path, write_json, write_text
from lowdino_edge.types import Int64

_PAIRS, _SEEDS, _EACH = 24, 10, 8  # pairs and seeds of a sheet, images beside a seed
_REASONS = {
    "copy": "the same pixels as the image that stays",
    "near": "the same picture, changed",
    "leak": "the same picture as an evaluation image",
}


@dataclass
class Outcome:
    """Everything that is written.

    Attributes:
        root: folder that ids are relative to; None where they are no files.
        kept: (K,) rows of the pool that go on, in their order.
        evaluation: the test split of the data itself, which curated.csv names too; None where there is none.
        found: rows of the pool by retrieval, None where nothing was sought.
        seeds: what it was sought by.
        report: the figures and settings of report.json.
        sheets: file names and captions of the pictures that were drawn.
    """

    gallery: Gallery
    root: Path | None
    kept: Int64
    removed: Sequence[Removed]
    similarity: dict[tuple[int, int], tuple[int, float]]
    evaluation: ImageSet | None
    found: Found | None
    seeds: ImageSet | None
    report: dict[str, Any]
    sheets: list[tuple[str, str]] = field(default_factory=list)


def write(outcome: Outcome, out: Path, seed: int) -> None:
    """All files but DONE."""
    _write_csv(out / "removed.csv", _removed_rows(outcome))
    if outcome.found is not None:
        _write_csv(out / "found.csv", _found_rows(outcome))
    _write_csv(out / "curated.csv", _curated_rows(outcome))
    _draw(outcome, out / "sheets", seed)
    outcome.report["sheets"] = [{"file": f"sheets/{name}", "caption": text} for name, text in outcome.sheets]
    write_json(out / "report.json", outcome.report)
    write_text(out / "report.html", _page(outcome, out))


def _path(outcome: Outcome, name: str) -> str:
    return name if outcome.root is None else str(outcome.root / name)


def _label(images: ImageSet, row: int) -> str:
    label = int(images.labels[row])
    return images.classes[label] if label >= 0 else ""


def _curated_rows(outcome: Outcome) -> list[list[str]]:
    """With the test split beside it, so that what trains on the list is judged on the same images as before."""
    pool = outcome.gallery.sets[0].images
    rows = [["path", "label", "split"]]
    mark = "train" if outcome.evaluation is not None else ""
    rows += [[_path(outcome, pool.ids[i]), _label(pool, i), mark] for i in outcome.kept.tolist()]
    test = outcome.evaluation
    if test is not None:
        rows += [[_path(outcome, name), _label(test, i), "test"] for i, name in enumerate(test.ids)]
    return rows


def _removed_rows(outcome: Outcome) -> list[list[str]]:
    gallery, pool = outcome.gallery, outcome.gallery.sets[0].images
    rows = [["path", "label", "kept", "kept_in", "reason", "hash_distance", "similarity", *FIGURES]]
    for r in outcome.removed:
        bits, cosine = outcome.similarity.get((min(r.image, r.twin), max(r.image, r.twin)), (-1, float("nan")))
        figures = [f"{f:.4f}" for f in r.figures] if r.figures else [""] * len(FIGURES)
        kept = gallery.name(r.twin)
        kept = _path(outcome, kept) if r.twin < gallery.pool else kept
        rows.append([
            _path(outcome, gallery.name(r.image)), _label(pool, r.image), kept, gallery.source(r.twin), r.reason,
            "" if bits < 0 else str(bits), "" if np.isnan(cosine) else f"{cosine:.4f}", *figures,
        ])  # fmt: skip
    return rows


def _found_rows(outcome: Outcome) -> list[list[str]]:
    found, pool = outcome.found, outcome.gallery.sets[0].images
    assert found is not None
    rows = [["path", "label", "seed", "similarity", "cluster"]]
    for row, seed, cosine, cluster in zip(found.row, found.seed, found.similarity, found.cluster, strict=True):
        name = outcome.seeds.ids[seed] if outcome.seeds is not None and seed >= 0 else ""
        about = [name, f"{cosine:.4f}", "" if cluster < 0 else str(cluster)]
        rows.append([_path(outcome, pool.ids[row]), _label(pool, int(row)), *about])
    return rows


def _write_csv(path: Path, rows: list[list[str]]) -> None:
    """Names that are no UTF-8 stay as they are on the disk."""
    text = io.StringIO(newline="")
    csv.writer(text, lineterminator="\n").writerows(rows)
    with atomic_path(path) as tmp:
        tmp.write_bytes(text.getvalue().encode("utf-8", "surrogateescape"))


def _draw(outcome: Outcome, folder: Path, seed: int) -> None:
    rng = np.random.Generator(np.random.PCG64([seed, 8]))
    folder.mkdir(exist_ok=True)
    for reason in ("leak", "near"):
        some = [r for r in outcome.removed if r.reason == reason]
        doubtful = sorted(some, key=_margin)[:_PAIRS]
        rest = [r for r in some if r not in doubtful] if len(some) < 5000 else some
        drawn = [rest[i] for i in sorted(rng.permutation(len(rest))[:_PAIRS])]
        what = "in an evaluation set" if reason == "leak" else "removed"
        _pairs(outcome, folder, f"{reason}_closest.png", doubtful, f"{what}: the least alike, worst first")
        _pairs(outcome, folder, f"{reason}_sample.png", drawn, f"{what}: others, drawn at random")
    if outcome.found is not None and len(outcome.found):
        _found_sheet(outcome, folder)


def _margin(r: Removed) -> float:
    """How far the figures are from ideal, for the order of the sheet."""
    if not r.figures:
        return 1.0
    tone, detail, worst, colour = r.figures[:4]
    return min(detail, 1 - worst, 1 - colour, 1 - 4 * (1 - tone))


def _pairs(outcome: Outcome, folder: Path, name: str, removed: Sequence[Removed], caption: str) -> None:
    pairs = []
    for r in removed:
        try:
            images = outcome.gallery.picture(r.image), outcome.gallery.picture(r.twin)
        except BrokenImage:
            continue
        figures = r.figures or ()
        told = "  ".join(f"{n} {v:.2f}" for n, v in zip(FIGURES[:4], figures[:4], strict=False))
        pairs.append(Pair(*images, [told, printable(outcome.gallery.name(r.image))]))
    if pairs:
        _save(outcome, folder, name, pairs_sheet(pairs), f"{caption} (red goes, green stays)")


def _found_sheet(outcome: Outcome, folder: Path) -> None:
    found, gallery = outcome.found, outcome.gallery
    assert found is not None
    by = found.seed if outcome.seeds is not None else found.cluster
    values, counts = np.unique(by, return_counts=True)
    rows = []
    for value in values[np.argsort(-counts, kind="stable")][:_SEEDS].tolist():
        mine = np.flatnonzero(by == value)
        try:
            shown = [(gallery.picture(int(found.row[i])), f"{found.similarity[i]:.2f}") for i in mine[:_EACH]]
            asked = None
            if outcome.seeds is not None:
                read = outcome.seeds.read(value)
                asked = _image(read)
        except BrokenImage:
            continue
        title = f"seed: {len(mine)}" if outcome.seeds is not None else f"cluster {value}: {len(mine)}"
        rows.append(Row(asked, title, shown))
    what = "seed" if outcome.seeds is not None else "cluster"
    if rows:
        text = f"found: each {what} with how many images it brought, and the first of them with their similarity"
        _save(outcome, folder, "found.png", rows_sheet(rows), text)


def _image(read: Any) -> Any:
    from PIL import Image

    return Image.fromarray(read) if isinstance(read, np.ndarray) else read


def _save(outcome: Outcome, folder: Path, name: str, png: bytes, caption: str) -> None:
    with atomic_path(folder / name) as tmp:
        tmp.write_bytes(png)
    outcome.sheets.append((name, caption))


def _page(outcome: Outcome, out: Path) -> str:
    r = outcome.report
    counts = r["counts"]
    tiles = [tile(f"{counts['images']:,}", "images of the pool"), tile(f"{counts['curated']:,}", "in curated.csv")]
    tiles += [tile(f"{counts[k]:,}", f"removed: {text}") for k, text in _REASONS.items()]
    if outcome.found is not None:
        tiles.append(tile(f"{counts['found']:,}", "found by retrieval"))
    head = f"<header><h1>Curation of {_text(r['data'])}</h1></header>"
    parts = [head, f'<div class="tiles">{"".join(tiles)}</div>']
    note = "Nothing was deleted: the source is as it was. curated.csv is a source for --data."
    if outcome.root is None:
        note = "Nothing was deleted. This source has no files, so curated.csv names its images by their ids."
    parts.append(para(note))
    for name, caption in outcome.sheets:
        data = base64.b64encode((out / "sheets" / name).read_bytes()).decode()
        picture = f'<figure class="picture wide"><img alt="" src="data:image/png;base64,{data}"></figure>'
        parts.append(section(caption[0].upper() + caption[1:], picture))
    sets = [[s["name"], f"{s['images']:,}", f"{s['broken']:,}", s["fingerprint"]] for s in r["sets"]]
    parts.append(section("Images", table(["set", "images", "broken", "fingerprint"], sets)))
    settings = [(k, v) for k, v in {**r["protocol"], **r["thresholds"]}.items()]
    parts.append(section("How", facts_list(settings)))
    return page(f"Curation of {r['data']}", "\n".join(parts))


def _text(value: str) -> str:
    from html import escape

    return escape(printable(value))

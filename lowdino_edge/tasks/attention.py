"""`eval --task attention`: masks of what the network looks at against objects' masks, beside a box in the middle.

Nothing is fitted. The mass of the mask and the share of the box are chosen on other sequences than the one they are
scored on, or on the training part where the data has one.

Suffixes: N images, S settings, H and W pixels, A heads.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from lowdino_edge import console
from lowdino_edge.data.masks import IGNORE, open_masks
from lowdino_edge.data.paired import Pairs
from lowdino_edge.errors import UserError
from lowdino_edge.eval_settings import AttentionConfig
from lowdino_edge.evals import folds, maps, masks
from lowdino_edge.tasks import mask_pictures
from lowdino_edge.tasks.base import Outcome, Picture, Subject
from lowdino_edge.tasks.cells import Network, examples, limited

TRUTHS, BOX = ("union", "largest"), "box"
Scores = dict[str, NDArray[np.float64]]  # by truth, (N, S)


@dataclass(frozen=True)
class Looker:
    """What is made of an image before any truth is seen."""

    network: Network
    scales: list[float]
    kinds: tuple[str, ...]

    def maps(self, image: Image.Image) -> tuple[dict[str, NDArray[np.float64]], NDArray[np.float32] | None]:
        """By kind a map of the image's size, and the attention of each head at the largest scale, (A, h, w)."""
        found: dict[str, list[Any]] = {kind: [] for kind in self.kinds}
        heads = None
        for scale in sorted(self.scales):
            map_Dhw, heads = self.network(image, scale)
            if heads is not None and "attention" in found:
                found["attention"].append(heads.max(0) / heads.max())
            if "component" in found:
                found["component"].append(maps.leading_component(map_Dhw))
            if "contrast" in found:
                found["contrast"].append(maps.contrast(map_Dhw))
        w, h = image.size
        return {
            kind: merged if kind == "attention" else maps.scaled(merged)
            for kind, each in found.items()
            for merged in [maps.merged(each, h, w)]
        }, heads


def run(subject: Subject) -> Outcome:
    cfg = subject.recipe.eval.attention
    data, network = limited(open_masks(subject.recipe.data.source), subject), Network(subject)
    if cfg.map == "attention" and not network.attends:
        raise UserError(f"'{subject.model.spec}' has no CLS token whose attention could be drawn", "take map=auto")
    kind = {"auto": "attention" if network.attends else "contrast"}.get(cfg.map, cfg.map)
    kinds = ("attention", "component", "contrast") if network.attends else ("component", "contrast")
    looker = Looker(network, cfg.scales, kinds)
    data, scores = _scored(data, looker, cfg)
    result, mass_of = _result(data, scores, kind, cfg.masses)
    result["protocol"] |= {
        "map": _SAID[kind], "image_size": [round(s * network.size) for s in sorted(looker.scales)], "blobs": cfg.blobs,
    }  # fmt: skip
    pictures = [_overlays(data, looker, kind, mass_of, cfg.blobs)]
    if "sequences" in result:
        series, caption = (
            {"jaccard": f"mask ({kind})", "box": "box in the middle"},
            "Jaccard with the object, by sequence.",
        )
        pictures.insert(0, mask_pictures.bars(result["sequences"], series, "Jaccard", caption))
    return Outcome(result, _line(result), pictures)


_SAID = {
    "attention": "CLS attention of the last block, the largest of all heads",
    "component": "leading component of the last map, of each image by itself, the border low",
    "contrast": "distance of the last map's cells from those of the border, of each image by itself",
}


def _scored(data: Pairs, looker: Looker, cfg: AttentionConfig) -> tuple[Pairs, dict[str, Scores]]:
    """Jaccard of every image with every setting, of each kind of map and of the box. Images without an object are left
    out."""
    names = TRUTHS if len(data.classes) > 2 else TRUTHS[:1]  # of one class alone, the largest is the union
    rows: list[int] = []
    found: dict[str, dict[str, list[Any]]] = {kind: {t: [] for t in names} for kind in (*looker.kinds, BOX)}
    with console.bar("attention", len(data)) as bar:
        for i in range(len(data)):
            classes_HW = data.target(i)
            truth, counted_HW = masks.truths(classes_HW, IGNORE), classes_HW != IGNORE
            if truth["union"].any():
                rows.append(i)
                for t in names:
                    found[BOX][t].append(masks.box_jaccards(truth[t], counted_HW, masks.SHARES))
                for kind, map_HW in looker.maps(data.image(i))[0].items():
                    tried = [masks.without_blobs(m, cfg.blobs) for m in masks.mass_masks(map_HW, cfg.masses)]
                    for t in names:
                        found[kind][t].append([masks.jaccard(m, truth[t], counted_HW) for m in tried])
            bar.advance()
    if len(rows) < 2:
        raise UserError(f"{len(rows)} of the masks of '{data.name}' show an object", "give two or more that do")
    return data.subset(np.array(rows)), {k: {t: np.array(v) for t, v in by.items()} for k, by in found.items()}


def _result(
    data: Pairs, scores: dict[str, Scores], kind: str, masses: list[float]
) -> tuple[dict[str, Any], dict[str, float]]:
    """The JSON, and the mass that each sequence was scored with."""
    parts = folds.folds(data.groups, data.for_test)
    rows = {k: {t: masks.scored(s_NS, data.groups, parts) for t, s_NS in by.items()} for k, by in scores.items()}
    means = {k: {t: masks.mean(each) for t, each in by.items()} for k, by in rows.items()}
    several = "largest" in rows[BOX]
    kept = np.concatenate([score for _, score in parts])
    by_mass = folds.group_means(scores[kind]["union"][kept], [data.groups[i] for i in kept]).mean(0)
    result: dict[str, Any] = {
        "task": "attention",
        "map": kind,
        "jaccard": means[kind]["union"],
        "box": means[BOX]["union"],
        **({"largest": means[kind]["largest"], "box_largest": means[BOX]["largest"]} if several else {}),
        "n": len(kept),
        "maps": {
            k: {"jaccard": by["union"], **({"largest": by["largest"]} if several else {})} for k, by in means.items()
        },
        "by_mass": {f"{mass:g}": float(j) for mass, j in zip(masses, by_mass, strict=True)},
        "protocol": {
            "jaccard": "union of all objects" + ("; largest: the class with the most pixels" if several else ""),
            "mean": "over sequences, of the mean over images" if data.sequences else "over images",
            "chosen": f"mass of the mask and share of the box on other images than those scored: "
            f"{folds.said(data.groups, data.for_test)}",
            "masses": masses,
        },
    }
    if data.sequences:
        result["sequences"] = _sequences(rows[kind], rows[BOX], masses)
        result["above_box"] = sum(row["jaccard"] > row["box"] for row in result["sequences"])
    return result, {row["group"]: masses[row["setting"]] for row in rows[kind]["union"]}


def _sequences(rows: dict[str, list[Any]], box: dict[str, list[Any]], masses: list[float]) -> list[dict[str, Any]]:
    found = []
    for k, (mine, its) in enumerate(zip(rows["union"], box["union"], strict=True)):
        row = {"sequence": mine["group"], "n": mine["n"], "jaccard": mine["score"], "box": its["score"]}
        if "largest" in rows:
            row |= {"largest": rows["largest"][k]["score"], "box_largest": box["largest"][k]["score"]}
        found.append({**row, "mass": masses[mine["setting"]], "box_share": masks.SHARES[its["setting"]]})
    return found


def _line(result: dict[str, Any]) -> str:
    p = result["protocol"]
    text = f"Jaccard {100 * result['jaccard']:.2f}%, a box in the middle {100 * result['box']:.2f}%"
    if "largest" in result:
        text += f"; of the largest class {100 * result['largest']:.2f}%, the box {100 * result['box_largest']:.2f}%"
    if "sequences" in result:
        each = (f"{r['sequence']} {100 * r['jaccard']:.1f} ({100 * r['box']:.1f})" for r in result["sequences"])
        text += f"; by sequence, the box in brackets: {', '.join(each)}"
    sizes = ", ".join(map(str, p["image_size"]))
    return f"{text} ({result['map']}, {sizes} px, {result['n']} images; {p['chosen']})"


def _overlays(data: Pairs, looker: Looker, kind: str, mass_of: dict[str, float], blobs: float) -> Picture:
    """A row for each example, its mask as it was scored."""
    rows = []
    for i in examples(data, np.array([i for i, g in enumerate(data.groups) if g in mass_of])):
        image = data.image(i)
        found, heads = looker.maps(image)
        mask_HW = masks.without_blobs(masks.mass_masks(found[kind], [mass_of[data.groups[i]]])[0], blobs)
        truth_HW = masks.truths(data.target(i), IGNORE)["union"]
        shown = heads if kind == "attention" else None
        rows.append(mask_pictures.Look(data.groups[i], image, shown, found[kind], mask_HW, truth_HW))
    return mask_pictures.overlays(rows, kind)

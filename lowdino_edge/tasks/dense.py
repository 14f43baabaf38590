"""`eval --task dense`: segmentation by a linear layer on the frozen cells of the last map, mIoU on other sequences.

Suffixes: K classes, P cells of one image (h x w), H and W pixels.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from lowdino_edge.data.masks import open_masks
from lowdino_edge.data.paired import Pairs
from lowdino_edge.evals import dense, folds
from lowdino_edge.tasks import mask_pictures as pictures
from lowdino_edge.tasks.base import Outcome, Picture, Subject
from lowdino_edge.tasks.cells import Network, examples, limited
from lowdino_edge.tasks.probes import CONSTANT, NETWORK, PIXELS, Probes
from lowdino_edge.types import Int64

Counts = dict[str, dict[str, Int64]]  # by predictor and sequence, (K, K)


def run(subject: Subject) -> Outcome:
    cfg = subject.recipe.eval.dense
    data, network = limited(open_masks(subject.recipe.data.source), subject), Network(subject)
    n_classes, scale = len(data.classes), cfg.scale
    parts = folds.folds(data.groups, data.for_test)
    probes = Probes(
        network, data, scale, cfg.cells,
        lambda classes_HW, h, w: dense.shares(classes_HW, h, w, n_classes), lambda found: dense.fit(found, cfg),
    )  # fmt: skip
    counts: Counts = {name: {} for name in (NETWORK, PIXELS, CONSTANT)}
    shown = examples(data, np.concatenate([score for _, score in parts]))
    tiles: dict[int, list[pictures.Tile]] = {}
    strengths = set()
    for said in probes.outputs(parts):
        classes_HW, sequence = data.target(said.row), data.groups[said.row]
        height, width = classes_HW.shape
        answers = {name: dense.answer(z_PK, *said.grid, height, width) for name, z_PK in said.outputs.items()}
        for name, answer_HW in answers.items():
            count_KK = counts[name].setdefault(sequence, np.zeros((n_classes, n_classes), np.int64))
            count_KK += dense.confusion(answer_HW, classes_HW, n_classes)
        strengths.add(said.strength)
        if said.row in shown:
            image, drawn = data.image(said.row), [classes_HW, answers[NETWORK], answers[PIXELS]]
            over = [pictures.Tile(pictures.blended(image, c_HW, n_classes)) for c_HW in drawn]
            tiles[said.row] = [pictures.Tile(pictures.small(image)), *over]
    result = _result(data, counts)
    result["protocol"] = {
        "layer": "logistic regression on standardised cells, outputs brought to pixels (bilinear)",
        "image_size": round(scale * network.size),
        "fitted": f"on other images than those scored: {folds.said(data.groups, data.for_test)}",
        "cells": cfg.cells, "C": cfg.C, "C_chosen": sorted(strengths), "held_out": cfg.held_out,
        "miou": "over classes, of all scored pixels together",
    }  # fmt: skip
    return Outcome(result, _line(result), _pictures(data, result, {i: tiles[i] for i in shown}))


def _result(data: Pairs, counts: Counts) -> dict[str, Any]:
    total = {name: np.sum(list(by.values()), axis=0) for name, by in counts.items()}
    each_K = dense.iou(total[NETWORK])
    result: dict[str, Any] = {
        "task": "dense",
        "miou": dense.miou(total[NETWORK]),
        "baselines": {name: {"miou": dense.miou(total[name])} for name in (PIXELS, CONSTANT)},
        "iou": {c: None if np.isnan(v) else float(v) for c, v in zip(data.classes, each_K, strict=True)},
    }
    if data.sequences:
        result["sequences"] = [
            {
                "sequence": name,
                "miou": dense.miou(counts[NETWORK][name]),
                "colour_and_place": dense.miou(counts[PIXELS][name]),
                "constant": dense.miou(counts[CONSTANT][name]),
            }
            for name in sorted(counts[NETWORK])
        ]
    return result


def _line(result: dict[str, Any]) -> str:
    p = result["protocol"]
    pixels, constant = (100 * result["baselines"][name]["miou"] for name in (PIXELS, CONSTANT))
    by = ", ".join(f"{r['sequence']} {100 * r['miou']:.1f}" for r in result.get("sequences", []))
    text = f"mIoU {100 * result['miou']:.2f}%, of colour and place {pixels:.2f}%, of one class for all {constant:.2f}%"
    if by:
        text += f"; by sequence {by}"
    return f"{text} (linear layer on frozen cells, {p['image_size']} px; fitted {p['fitted']})"


def _pictures(data: Pairs, result: dict[str, Any], tiles: dict[int, list[pictures.Tile]]) -> list[Picture]:
    caption = "Segmentation by a linear layer on frozen cells; beside it one on colour and place alone."
    columns = ["image", "truth", "on the network's cells", "on colour and place"]
    drawn = [pictures.grid("segmentation", [data.groups[i] for i in tiles], columns, list(tiles.values()), caption)]
    if "sequences" in result:
        series = {"miou": "network", "colour_and_place": PIXELS, "constant": "most frequent class"}
        caption = "mIoU by sequence, each by layers that were fitted on others."
        drawn.insert(0, pictures.bars(result["sequences"], series, "mIoU", caption))
    return drawn

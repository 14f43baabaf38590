"""`eval --task depth`: depth by a linear layer on the frozen cells of the last map, on images it was not fitted on.

Suffixes: P cells of one image (h x w), H and W pixels.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from lowdino_edge.data.depth import open_depth
from lowdino_edge.data.paired import Pairs
from lowdino_edge.errors import UserError
from lowdino_edge.evals import depth, folds
from lowdino_edge.tasks import mask_pictures as pictures
from lowdino_edge.tasks.base import Outcome, Subject
from lowdino_edge.tasks.cells import Network, examples, limited
from lowdino_edge.tasks.probes import CONSTANT, NETWORK, PIXELS, Probes

Sums = dict[str, dict[str, depth.Errors]]  # by predictor and sequence


def run(subject: Subject) -> Outcome:
    cfg = subject.recipe.eval.depth
    data, network = limited(open_depth(subject.recipe.data.source, cfg.png_unit), subject), Network(subject)
    scale = cfg.scale
    parts = folds.folds(data.groups, data.for_test)
    probes = Probes(network, data, scale, cfg.cells, depth.targets, lambda found: depth.fit(found, cfg))
    sums: Sums = {name: {} for name in (NETWORK, PIXELS, CONSTANT)}
    shown = examples(data, np.concatenate([score for _, score in parts]))
    tiles: dict[int, list[pictures.Tile]] = {}
    strengths = set()
    for said in probes.outputs(parts):
        depth_HW, sequence = data.target(said.row), data.groups[said.row]
        height, width = depth_HW.shape
        answers = {name: depth.answer(z_P1, *said.grid, height, width) for name, z_P1 in said.outputs.items()}
        for name, answer_HW in answers.items():
            sums[name].setdefault(sequence, depth.Errors()).add(answer_HW, depth_HW)
        strengths.add(said.strength)
        if said.row in shown:
            tiles[said.row] = _tiles(data, said.row, depth_HW, answers)
    result = _result(data, sums)
    result["protocol"] = {
        "layer": "ridge regression of log depth on standardised cells, outputs brought to pixels (bilinear)",
        "image_size": round(scale * network.size),
        "fitted": f"on other images than those scored: {folds.said(data.groups, data.for_test)}",
        "cells": cfg.cells, "ridge": cfg.ridge, "ridge_chosen": sorted(strengths), "held_out": cfg.held_out,
        "figures": "of all scored pixels together whose depth is known",
    }  # fmt: skip
    columns = ["image", "truth", "on the network's cells", "on colour and place"]
    caption = (
        "Depth by a linear layer on frozen cells, bright for far; a row's colours mean the same. Black: not known."
    )
    rows = [data.groups[i] for i in shown]
    drawn = pictures.grid("depth", rows, columns, [tiles[i] for i in shown], caption)
    return Outcome(result, _line(result), [drawn])


def _tiles(data: Pairs, i: int, depth_HW: NDArray[Any], answers: dict[str, NDArray[Any]]) -> list[pictures.Tile]:
    known_HW = depth_HW > 0
    low, high = np.log(np.quantile(depth_HW[known_HW], [0.02, 0.98])) if known_HW.any() else (0.0, 1.0)
    truth_HW3 = pictures.shades(np.log(np.where(known_HW, depth_HW, 1)), low, high) * known_HW[..., None]
    maps = [pictures.shades(np.log(answers[name]), low, high) for name in (NETWORK, PIXELS)]
    return [pictures.Tile(pictures.shrunk(u8)) for u8 in (np.asarray(data.image(i)), truth_HW3, *maps)]


def _result(data: Pairs, sums: Sums) -> dict[str, Any]:
    total = {name: depth.together(list(by.values())) for name, by in sums.items()}
    if total[NETWORK].n == 0:
        raise UserError("no depth is known in the images to score", "0 and what is not finite is not known")
    result: dict[str, Any] = {
        "task": "depth",
        **total[NETWORK].figures(),
        "baselines": {name: total[name].figures() for name in (PIXELS, CONSTANT)},
    }
    if data.sequences:
        result["sequences"] = [{"sequence": n, **sums[NETWORK][n].figures()} for n in sorted(sums[NETWORK])]
    return result


def _line(result: dict[str, Any]) -> str:
    p, (pixels, constant) = result["protocol"], (result["baselines"][name] for name in (PIXELS, CONSTANT))
    return (
        f"RMSE {result['rmse']:.3f} m, abs-rel {result['abs_rel']:.4f}, delta<1.25 {100 * result['delta1']:.2f}% "
        f"(colour and place: {pixels['rmse']:.3f} m, {pixels['abs_rel']:.4f}, {100 * pixels['delta1']:.2f}%; "
        f"one depth for all: {constant['rmse']:.3f} m, {constant['abs_rel']:.4f}, {100 * constant['delta1']:.2f}%; "
        f"linear layer on frozen cells, {p['image_size']} px; fitted {p['fitted']})"
    )

"""The slice of `make matrix` that CI runs: each target, each scheme and each family of backbone at least once.

Which cells these are is computed from the tables, so a new row is covered by itself or fails here.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any, get_args

import numpy as np
import pytest
import torch

from lowdino_edge import api, runtimes
from lowdino_edge.artifact import Artifact
from lowdino_edge.config import Recipe, load_recipe
from lowdino_edge.errors import UserError
from lowdino_edge.export import EXACT, SCHEMES, TARGETS
from lowdino_edge.models.backbone import build_student
from lowdino_edge.models.student_file import save_student
from lowdino_edge.models.students import STUDENTS, Family
from lowdino_edge.workspace import Workspace

SIZE = 64
FAMILIES: tuple[str, ...] = get_args(Family)
CONVERTER = {"onnx": "onnxruntime", "executorch": "executorch", "coreml": "coremltools", "tflite": "litert_torch"}
PROVEN = [t for t in TARGETS.values() if t.unproven is None]
Cell = tuple[str, str, str]  # student, target, scheme


def covers(cell: Cell) -> set[str]:
    student, target, scheme = cell
    return {f"family {STUDENTS[student].family}", f"target {target}", f"scheme {scheme}"}


def cover() -> list[Cell]:
    """Few cells that hold everything, by taking the one that adds most; each family by its cheapest student."""
    cheapest = [
        min((s for s in STUDENTS.values() if s.family == f), key=lambda s: s.macs).id
        for f in FAMILIES
        if any(s.family == f for s in STUDENTS.values())
    ]
    cells = [(student, t.id, scheme) for student in cheapest for t in PROVEN for scheme in t.schemes]
    chosen: list[Cell] = []
    missing = set().union(*map(covers, cells))
    while missing:
        chosen.append(max(cells, key=lambda c: len(covers(c) & missing)))
        missing -= covers(chosen[-1])
    return chosen


CELLS = cover()


def test_the_slice_covers_every_target_scheme_and_family() -> None:
    wanted = {f"target {t.id}" for t in PROVEN} | {f"scheme {s}" for s in SCHEMES} | {f"family {f}" for f in FAMILIES}
    assert set().union(*map(covers, CELLS)) == wanted
    assert {t.id for t in PROVEN} == set(CONVERTER)
    assert len(CELLS) <= max(len(PROVEN), len(SCHEMES), len(FAMILIES)) + 2  # a slice, not the matrix


@pytest.fixture(scope="module")
def recipe() -> Recipe:
    """Labelled images, few; random features lose and win a few queries by chance, so the budget is wide."""
    return load_recipe(
        None,
        ["data.source=synthetic", "data.train_limit=320", "data.test_limit=160", "device=cpu", "data.workers=0",
         "export.calibration_images=32", "export.parity_images=48", "export.max_knn_drop=8"],
    )  # fmt: skip


@pytest.fixture(scope="module")
def work(recipe: Recipe) -> Workspace:
    return Workspace(recipe)


@pytest.fixture(scope="module")
def students(recipe: Recipe, work: Workspace, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A run directory a student: random weights, BatchNorm statistics of images."""
    runs = {}
    for id in dict.fromkeys(student for student, _, _ in CELLS):
        student = build_student(id, SIZE, seed=0).train()
        with torch.no_grad():
            for x in np.split(work.sample("train", student.preprocess, 64), 4):
                student(torch.from_numpy(x))
        runs[id] = tmp_path_factory.mktemp(id)
        save_student(student.eval(), runs[id] / "student.safetensors", {})
    return runs


@pytest.mark.parametrize(("student", "target", "scheme"), CELLS)
def test_a_cell_is_proven_or_says_what_to_use(
    student: str, target: str, scheme: str, students: dict[str, Path], recipe: Recipe, work: Workspace
) -> None:
    pytest.importorskip(CONVERTER[target])
    try:
        (made,) = api.export(str(students[student]), targets=[target], schemes=[scheme], recipe=recipe, work=work)
    except UserError as e:
        refused(e, student, target, scheme)
        assert not (students[student] / "artifacts" / f"{target}-{scheme}").exists()
    else:
        proven(Artifact.read(made.dir), student, target, scheme)


def refused(e: UserError, student: str, target: str, scheme: str) -> None:
    """Only what quantizes a fragile network may be refused, and another scheme of this target is named."""
    assert scheme not in EXACT and STUDENTS[student].fragile_int8 is not None, e
    assert scheme in e.message and student in e.message
    named = re.findall(r"--quantize ((?:\w+(?:, | or )?)+)", e.hint)
    others = set(re.findall(r"\w+", " ".join(named))) & set(SCHEMES)
    assert others and others <= set(TARGETS[target].schemes) - {scheme}, e.hint


def proven(artifact: Artifact, student: str, target: str, scheme: str) -> None:
    card = artifact.card
    assert (card["student"], card["target"], card["scheme"]) == (student, target, scheme)
    assert card["parity"]["n"] == 48 and card["parity"]["cosine_mean"] > (0.9999 if scheme == "none" else 0.97)
    assert card["delegation"].keys() >= {"coverage"} and card["toolchain"]["torch"]
    assert card["output"]["shape"] == [1, STUDENTS[student].embed_dim]
    golden = artifact.golden()
    np.testing.assert_allclose(runtimes.load(artifact)(golden["input"]), golden["embedding"], atol=1e-4)
    if scheme not in EXACT:
        neighbours(card["knn"])
    if scheme == "w8a8":
        quantized(card["quantization"])


def neighbours(knn: dict[str, Any]) -> None:
    """What the file on its own runtime does to kNN, by how many images."""
    assert knn["n_bank"] >= 16 and knn["n_query"] >= 48 and knn["protocol"]["k"] > 0
    assert 0 < knn["top1"] <= 1 and 0 < knn["top1_float"] <= 1
    assert knn["drop_points"] == pytest.approx(100 * (knn["top1_float"] - knn["top1"]), abs=0.01)
    assert knn["drop_points"] <= knn["budget_points"] == 8


def quantized(q: dict[str, Any]) -> None:
    """What is int8, and of what is not: where, why and what it is worth."""
    assert q["weight_bits"] in (7, 8) and q["per_channel"] is True and q["ranges"] in ("min-max", "percentile", "mse")
    assert q["convolutions_int8"] > 0 and q["equalised"] >= 0
    for kept in q["kept_float"]:
        assert kept["module"] and kept["operators"] and kept["why"] and kept["cosine_loss"] is not None
    assert q["cost_ms"] is None or (q["cost_ms"]["all_int8"] > 0 and q["cost_ms"]["this"] > 0)

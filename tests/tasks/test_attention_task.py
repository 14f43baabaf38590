"""`eval --task attention` on folders whose objects are known."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from folders import run as made_run
from folders import scene, sequences, student, write
from PIL import Image

from lowdino_edge.cli import main
from lowdino_edge.config import load_recipe
from lowdino_edge.errors import UserError
from lowdino_edge.evals import maps, masks
from lowdino_edge.evals.baselines import PixelEncoder
from lowdino_edge.evaluation import evaluate
from lowdino_edge.models.attention import look
from lowdino_edge.models.backbone import build_student
from lowdino_edge.models.student_file import save_student
from lowdino_edge.resolve import resolve
from lowdino_edge.tasks.base import Subject
from lowdino_edge.tasks.cells import Network
from lowdino_edge.types import Preprocess
from lowdino_edge.workspace import Workspace

SMALL = ["eval.attention.scales=[1, 2]", "device=cpu"]


def measured(model: Path | str, data: Path, out: Path, *settings: str) -> dict[str, Any]:
    recipe = load_recipe(None, [*SMALL, *settings])
    return evaluate(str(model), str(data), "attention", recipe=recipe, out=out)


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return made_run(tmp_path_factory.mktemp("model") / "tiny")


def test_each_sequence_with_what_others_chose(model: Path, tmp_path: Path) -> None:
    data = sequences(tmp_path / "data")
    found = measured(model, data, tmp_path / "out")
    assert [r["sequence"] for r in found["sequences"]] == ["a", "b", "c"] and found["n"] == 9
    assert found["jaccard"] == pytest.approx(np.mean([r["jaccard"] for r in found["sequences"]]))
    assert found["box"] == pytest.approx(np.mean([r["box"] for r in found["sequences"]]))
    assert found["jaccard"] > 0.45  # a bright square is unlike the border for any network
    assert found["map"] == "contrast" and set(found["maps"]) == {"contrast", "component", "box"}
    assert "largest" not in found and found["protocol"]["image_size"] == [32, 64]
    assert found["above_box"] == sum(r["jaccard"] > r["box"] for r in found["sequences"])
    by_hand = jaccard_by_hand(student(), data, found)
    assert [r["jaccard"] for r in found["sequences"]] == pytest.approx(by_hand, abs=1e-6)


def jaccard_by_hand(net: Any, data: Path, found: dict[str, Any]) -> list[float]:
    each = []
    for row in found["sequences"]:
        scores = []
        for file in sorted((data / "images" / row["sequence"]).iterdir()):
            image = Image.open(file)
            parts = []
            for size in ((40, 32), (88, 64)):  # 48 x 36 at a shorter side of 32 and 64, in whole cells of 8
                x = np.asarray(image.resize(size, Image.Resampling.BICUBIC), np.float32).transpose(2, 0, 1)[None] / 255
                cells = look(net, torch.from_numpy(x))[0][0].numpy()
                assert cells.shape[1:] == (size[1] // 8, size[0] // 8)
                parts.append(maps.to_size(maps.contrast(cells), 36, 48))
            (mask,) = masks.mass_masks(maps.scaled(np.mean(parts, 0, dtype=np.float64)), [row["mass"]])
            truth = np.asarray(Image.open(data / "masks" / row["sequence"] / file.name)) == 255
            scores.append(masks.jaccard(masks.without_blobs(mask, 0.05), truth))
        each.append(float(np.mean(scores)))
    return each


def test_a_sequences_own_truth_chooses_nothing_for_it(model: Path, tmp_path: Path) -> None:
    """Other masks of one sequence change its score and what the others are scored with, not its own settings."""
    before = measured(model, sequences(tmp_path / "data"), tmp_path / "out")
    for file in (tmp_path / "data" / "masks" / "b").iterdir():
        truth = np.zeros((36, 48), np.uint8)
        truth[:30, :40] = 255
        write(file, truth)
    after = measured(model, tmp_path / "data", tmp_path / "out")
    (b, changed) = (next(r for r in f["sequences"] if r["sequence"] == "b") for f in (before, after))
    assert (b["mass"], b["box_share"]) == (changed["mass"], changed["box_share"])
    assert b["jaccard"] != changed["jaccard"] and b["box"] != changed["box"]
    others = [[(r["mass"], r["box_share"]) for r in f["sequences"] if r["sequence"] != "b"] for f in (before, after)]
    assert others[0] != others[1]


def test_with_a_split_the_settings_come_from_the_training_part(model: Path, tmp_path: Path) -> None:
    data = tmp_path / "data"
    for part, seeds in (("train", (0, 1, 2)), ("val", (7, 8))):
        sequences(data / part, names=tuple(f"s{s}" for s in seeds), n=2)
    first = measured(model, data, tmp_path / "out")
    assert [r["sequence"] for r in first["sequences"]] == ["s7", "s8"] and first["n"] == 4
    for file in (data / "val" / "masks").rglob("*.png"):
        write(file, np.full((36, 48), 255, np.uint8))
    second = measured(model, data, tmp_path / "out")
    assert [(r["mass"], r["box_share"]) for r in first["sequences"]] == [
        (r["mass"], r["box_share"]) for r in second["sequences"]
    ]
    assert first["jaccard"] != second["jaccard"]


def test_several_classes_give_union_and_largest(model: Path, tmp_path: Path) -> None:
    for i in range(4):
        rgb, truth = scene(i)
        classes = truth.astype(np.uint8) * 3
        classes[0:3, 0:4] = 7
        classes[:, -1] = 255
        write(tmp_path / "data" / "images" / f"{i}.png", rgb)
        write(tmp_path / "data" / "masks" / f"{i}.png", classes)
    write(tmp_path / "data" / "images" / "x.png", scene(9)[0])
    write(tmp_path / "data" / "masks" / "x.png", np.zeros((36, 48), np.uint8))  # no object: left out
    found = measured(model, tmp_path / "data", tmp_path / "out")
    assert found["n"] == 4 and "sequences" not in found
    assert found["largest"] != found["jaccard"] and "largest" in found["maps"]["component"]
    assert "over images" in found["protocol"]["mean"] and "leave one out of 4 images" in found["protocol"]["chosen"]


def test_a_vit_is_asked_for_its_attention(tmp_path: Path) -> None:
    net = build_student("vit_tiny_d10", 32, seed=0).eval()
    (tmp_path / "vit").mkdir()
    save_student(net, tmp_path / "vit" / "student.safetensors", {})
    data = sequences(tmp_path / "data", n=2)
    found = measured(tmp_path / "vit", data, tmp_path / "out")
    assert found["map"] == "attention" and set(found["maps"]) == {"attention", "component", "contrast", "box"}
    assert {p["file"].split(".")[-2] for p in found["pictures"]} == {"overlays", "sequences"}
    other = measured(tmp_path / "vit", data, tmp_path / "out", "eval.attention.map=component")
    assert other["map"] == "component"
    assert other["jaccard"] == other["maps"]["component"]["jaccard"] == found["maps"]["component"]["jaccard"]


def test_the_command_writes_pictures_and_says_the_protocol(
    model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data = sequences(tmp_path / "data", n=2)
    command = ["eval", str(model), "--data", str(data), "--task", "attention", "--out", str(tmp_path / "out"), "--json"]
    with pytest.raises(SystemExit) as done:
        main([*command, "--image-size", "48", "--set", "eval.attention.scales=[1]", "--device", "cpu"])
    assert not done.value.code
    said = capsys.readouterr()
    result = json.loads(said.out.splitlines()[-1])
    assert result["protocol"]["image_size"] == [48]
    line = next(l for l in said.err.splitlines() if l.startswith("Jaccard"))
    assert "a box in the middle" in line and "leave one out of 3 sequences" in line and "a " in line
    for picture in result["pictures"]:
        file = tmp_path / "out" / "results" / picture["file"]
        head = file.read_bytes()[:8]
        assert head.startswith(b"\x89PNG" if file.suffix == ".png" else b"<?xml")


def test_what_cannot_be_asked_is_refused(model: Path, tmp_path: Path) -> None:
    data = sequences(tmp_path / "data", n=2)
    with pytest.raises(UserError, match="has no CLS token"):
        measured(model, data, tmp_path / "out", "eval.attention.map=attention")
    with pytest.raises(UserError, match="no images/ with masks/"):
        measured(model, model, tmp_path / "out")
    one = sequences(tmp_path / "one", names=("only",))
    with pytest.raises(UserError, match="single sequence, 'only'"):
        measured(model, one, tmp_path / "out")


def test_an_encoder_without_a_network_is_refused() -> None:
    subject = Subject(resolve("nano"), Workspace(load_recipe(None, ["device=cpu"])))
    subject.encoder = PixelEncoder(Preprocess(32))
    with pytest.raises(UserError, match="'nano' gives embeddings alone"):
        Network(subject)

"""`eval --task finetune`: what it fits on, what it leaves alone, what it keeps, and that it learns."""

from __future__ import annotations

import json
import re
import signal
import subprocess
import sys
import tempfile
import time
from functools import cache
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from safetensors.torch import save_file
from torch.nn import functional as F

from lowdino_edge.artifact import write_card
from lowdino_edge.config import Recipe, load_recipe
from lowdino_edge.data.synthetic import CLASSES, SyntheticImages
from lowdino_edge.errors import UserError
from lowdino_edge.eval_settings import FinetuneConfig
from lowdino_edge.evals.finetune import cross_entropy, table, top_k
from lowdino_edge.evaluation import evaluate
from lowdino_edge.models.backbone import build_student, linear_head, timm_network
from lowdino_edge.models.student_file import save_student
from lowdino_edge.resolve import Model, resolve
from lowdino_edge.tasks import finetune
from lowdino_edge.tasks.backbones import Thawed, learner
from lowdino_edge.tasks.base import Subject
from lowdino_edge.tasks.fitting import Fit, Fitting
from lowdino_edge.types import Preprocess
from lowdino_edge.workspace import Workspace
from tests.tasks.timeless import timeless

CHANCE = 1 / len(CLASSES)
FULL, FROZEN = Fit("full", 1.0, 0), Fit("frozen", 1.0, 0)


_FOLDER = tempfile.TemporaryDirectory(prefix="lowdino-test-")


@cache
def pictures() -> str:
    """The synthetic set as a folder, which is read in no time: 240 images to train on and 60 to test on, 12 classes."""
    for split, of, n in (("train", "train", 240), ("val", "test", 60)):
        images = SyntheticImages(of, n, 16)  # type: ignore[arg-type]
        for i, label in enumerate(images.labels):
            folder = Path(_FOLDER.name) / split / CLASSES[label]
            folder.mkdir(parents=True, exist_ok=True)
            Image.fromarray(images.image(i)).save(folder / f"{i:03}.png")
    return _FOLDER.name


def recipe(data: str = "", size: int | None = 16, **settings: Any) -> Recipe:
    usual: dict[str, Any] = {"epochs": 3, "fractions": [1.0], "batch_size": 32, "held_out": 0.2, **settings}
    tree = {"data": {"source": data or pictures()}, "student": {"image_size": size}, "eval": {"finetune": usual}}
    return Recipe.model_validate({"device": "cpu", **tree})


def subject(model: str = "nano", data: str = "", size: int | None = 16, **settings: Any) -> Subject:
    return Subject(resolve(model), Workspace(recipe(data, size, **settings)))


def state(net: torch.nn.Module) -> dict[str, torch.Tensor]:
    return {name: value.clone() for name, value in net.state_dict().items()}


def same(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> tuple[dict[str, Any], Path]:
    """A whole evaluation with everything there is, written to a directory."""
    out = tmp_path_factory.mktemp("found")
    settings = {"epochs": 8, "fractions": [0.2, 1.0], "optim": {"lr": 3e-3}, "scratch": False}
    made = evaluate("nano", "synthetic:600x16", "finetune", recipe=recipe(**settings), out=out)
    return made, out


def test_it_learns_and_says_so(found: tuple[dict[str, Any], Path]) -> None:
    rows = {(r["backbone"], r["fraction"]): r for r in found[0]["rows"]}
    assert list(rows) == [(b, f) for f in (0.2, 1.0) for b in ("frozen", "full")]
    full = rows["full", 1.0]
    assert full["top1"] > 2.5 * CHANCE and full["top3"] > 6 * CHANCE
    assert rows["frozen", 1.0]["top1"] > 1.5 * CHANCE  # of a random network
    assert full["top1"] > rows["full", 0.2]["top1"]
    assert all(r["top3"] >= r["top1"] for r in rows.values())
    assert (full["n_train"], full["n_held_out"], found[0]["n_query"]) == (480, 120, 150)
    assert found[0]["top1"] == full["top1"]
    for curve in found[0]["curves"]:
        assert curve["curve"][-1]["loss"] < curve["curve"][0]["loss"]
        assert set(curve["curve"][0]) == {"loss", "accuracy", "held_out_loss", "held_out_top1", "held_out_top3"}
    assert f"full, 100% of the labels: top-1 {100 * full['top1']:.2f}%" in found[0]["line"]


def test_all_trainings_and_their_order() -> None:
    cfg = FinetuneConfig.model_validate({"fractions": [0.1, 1.0], "seeds": [0, 4], "scratch": True})
    kinds = [("frozen", False), ("full", False), ("full", True)]
    assert finetune.fits(cfg) == [Fit(b, f, seed, s) for f in (0.1, 1.0) for b, s in kinds for seed in (0, 4)]  # type: ignore[arg-type]


def test_from_scratch_is_the_same_training_of_random_weights() -> None:
    """nano's own weights, where nothing was trained, are those of seed 0."""
    fitting = Fitting(subject(epochs=1))
    own, drawn, other = (timeless(fitting.run(Fit("full", 0.5, n, s))) for n, s in ((0, False), (0, True), (1, True)))
    assert drawn == {**own, "scratch": True} and other["curve"] != drawn["curve"]
    own, drawn = (learner(fitting.subject, seed) for seed in (None, 1))
    assert not torch.equal(next(own.parameters()), next(drawn.parameters()))


def test_what_is_written(found: tuple[dict[str, Any], Path]) -> None:
    results = found[1] / "results"
    names = sorted(p.name for p in results.iterdir())
    stem = names[1].removesuffix(".json")
    assert re.fullmatch("finetune-[0-9a-f]+__nano__host", stem)
    assert names == [f"{stem}.curves.svg", f"{stem}.json", f"{stem}.predictions.png"]  # the scratch is gone
    written = json.loads((results / names[1]).read_text())
    assert {**written, "line": found[0]["line"]} == found[0]
    assert ElementTree.parse(results / names[0]).getroot().tag.endswith("svg")
    assert [p["file"] for p in written["pictures"]] == [names[0], names[2]]
    with Image.open(results / names[2]) as image:
        assert image.width > image.height > 500


@pytest.mark.parametrize("augment", [None, True])
def test_frozen_leaves_the_backbone_as_it_is_to_the_bit(augment: bool | None) -> None:
    made = subject(augment=augment)
    before = state(made.encoder.module)  # type: ignore[attr-defined]
    fitting = Fitting(made)
    method, way, _ = fitting.fitted(FROZEN)
    assert same(state(made.encoder.module), before)  # type: ignore[attr-defined]
    assert not any(name.startswith("student") for name, _ in method.named_parameters())
    drawn = fitting.method(FROZEN, way).classifier
    assert not any(torch.equal(a, b) for a, b in zip(method.classifier.parameters(), drawn.parameters(), strict=True))


def test_full_changes_every_weight_of_a_copy() -> None:
    made = subject()
    before = state(made.encoder.module)  # type: ignore[attr-defined]
    method, way, _ = Fitting(made).fitted(FULL)
    after = state(method.student)
    assert same(state(made.encoder.module), before)  # type: ignore[attr-defined]
    assert [name for name in before if torch.equal(before[name], after[name]) and before[name].ndim == 4] == [
        "scale", "shift",
    ]  # fmt: skip
    assert way.network is method.student


def test_the_weights_of_the_best_epoch_are_kept_and_patience_ends_it() -> None:
    fitting = Fitting(subject(epochs=30, patience=2, optim={"lr": 2e-2, "warmup_epochs": 0}))
    method, way, done = fitting.fitted(FROZEN)
    ranks = [(row["held_out_top1"], -row["held_out_loss"]) for row in done.epochs]
    assert done.best == 1 + ranks.index(max(ranks))
    assert len(done.epochs) == done.best + 2 < 30
    chosen = fitting.parts(FROZEN)[1]
    kept = {k: v for k, v in done.epochs[done.best - 1].items() if k.startswith("held_out")}
    assert fitting.on_held_out(method, way, chosen) == kept
    assert kept != {k: v for k, v in done.epochs[-1].items() if k in kept}


def test_without_patience_all_epochs_are_run_and_the_best_is_kept() -> None:
    fitting = Fitting(subject(epochs=12, patience=None, optim={"lr": 2e-2, "warmup_epochs": 0}))
    method, way, done = fitting.fitted(FROZEN)
    assert len(done.epochs) == 12 and done.best < 12
    best = done.epochs[done.best - 1]
    assert fitting.on_held_out(method, way, fitting.parts(FROZEN)[1]).items() <= best.items()


@pytest.mark.parametrize("fit", [Fit("frozen", 0.5, 1), Fit("full", 0.5, 1)], ids=["frozen", "full"])
def test_weights_follow_from_the_rows_to_fit_on_and_nothing_else(fit: Fit) -> None:
    """All other images, those held out and those for testing among them, may be anything, their labels too."""
    fitting = Fitting(subject(patience=None))
    rows, chosen = fitting.parts(fit)
    assert not set(rows) & set(chosen) and len(rows) + len(chosen) == 120
    assert not {fitting.train.ids[i] for i in (*rows, *chosen)} & set(fitting.test.ids)
    loss = [row["loss"] for row in fitting.fitted(fit)[2].epochs]
    other = Fitting(subject(patience=None))
    outside = np.setdiff1d(np.arange(240), rows)
    rng = np.random.default_rng(0)
    part = np.union1d(rows, chosen)  # which images have labels is decided by the labels: only these must stay in place
    for pixels, poisoned in ((other.train, outside), (other.test, np.arange(60))):
        pixels.u8_NCHW[poisoned] = rng.integers(0, 256, pixels.u8_NCHW[poisoned].shape, dtype=np.uint8)
        pixels.labels[poisoned] = rng.permutation(pixels.labels[poisoned])
    other.parts = lambda fit: (rows, chosen)  # type: ignore[method-assign]
    found = other.fitted(fit)[2].epochs
    assert [row["loss"] for row in found] == loss
    assert len(part) == 120 and found[-1]["held_out_top1"] < 0.5


def test_permuted_test_labels_change_the_score_and_nothing_else() -> None:
    fit = Fit("full", 1.0, 0)
    records = []
    for permuted in (False, True):
        fitting = Fitting(subject(epochs=2))
        if permuted:
            fitting.test.labels[:] = np.random.default_rng(0).permutation(fitting.test.labels)
        records.append(timeless(fitting.run(fit)))
    assert records[0].pop("top1") != records[1].pop("top1")
    assert records[0].pop("top3") != records[1].pop("top3")
    assert records[0] == records[1]


def test_the_same_seed_gives_the_same_numbers_and_another_one_others() -> None:
    fits = [Fit(backbone, 0.5, seed) for backbone in ("frozen", "full") for seed in (0, 1)]
    a, b = ([timeless(Fitting(subject(epochs=2)).run(fit)) for fit in fits] for _ in range(2))
    assert a == b
    assert a[0]["curve"] != a[1]["curve"] and a[2]["curve"] != a[3]["curve"]


@pytest.mark.parametrize(
    "optim",
    [
        {"name": "adam", "weight_decay": 0.0, "weight_decay_end": 0.0},
        {"name": "adamw", "weight_decay": 0.04, "weight_decay_end": 0.4},
        {"name": "sgd", "lr": 0.1},
    ],
    ids=["adam", "adamw, rising decay", "sgd"],
)
def test_optimisers_with_accumulated_gradients(optim: dict[str, Any]) -> None:
    fitting = Fitting(subject(optim={"warmup_epochs": 0, **optim}, accumulate=2, augment=True))
    done = fitting.fitted(FULL)[2]
    assert done.epochs[-1]["loss"] < done.epochs[0]["loss"]


def test_views_are_random_only_where_they_should_be() -> None:
    usual = Fitting(subject())
    assert not usual.augments(FROZEN) and usual.augments(FULL) and usual.augments(Fit("full", 1.0, 0, True))
    plain, augmented = (Fitting(subject(augment=a)).fitted(FULL)[2].epochs for a in (False, True))
    assert plain[0]["loss"] != augmented[0]["loss"]


def test_few_images() -> None:
    with pytest.raises(UserError, match="leave 12 images to fit on, too few for 8 passes"):
        Fitting(subject(fractions=[0.1], held_out=0.5, accumulate=8)).fitted(Fit("frozen", 0.1, 0))


def test_one_label_a_class_holds_nothing_out(capsys: pytest.CaptureFixture[str]) -> None:
    record = Fitting(subject(batch_size=64, epochs=2)).run(Fit("frozen", 0.01, 0))
    assert (record["n_train"], record["n_held_out"], record["best_epoch"]) == (12, 0, 2)
    assert set(record["curve"][0]) == {"loss", "accuracy"}
    assert "the last epoch is taken" in capsys.readouterr().err


KILLED = ["eval.finetune.epochs=2", "eval.finetune.scratch=true", "eval.finetune.fractions=[0.2,0.4]"]


def start(out: Path, log: Path) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-m", "lowdino_edge.cli", "eval", "nano", "--data", pictures(), "--task", "finetune"]
    command += ["--image-size", "16", "--device", "cpu", "--out", str(out)]
    command += [word for setting in KILLED for word in ("--set", setting)]
    with log.open("wb") as f:
        return subprocess.Popen(command, stdout=f, stderr=f)


def test_a_killed_one_goes_on_where_it_was(tmp_path: Path) -> None:
    out, log = tmp_path / "out", tmp_path / "log"
    process = start(out, log)
    records, results = ".finetune-*__nano/*.json", out / "results"
    limit = time.monotonic() + 280
    while len(list(results.glob(records))) < 3:
        assert process.poll() is None and time.monotonic() < limit, log.read_text()
        time.sleep(0.01)
    process.kill()
    assert process.wait(60) == -signal.SIGKILL
    done = list(results.glob(records))
    assert not list(results.glob("*.json"))
    assert start(out, log).wait(280) == 0, log.read_text()
    assert log.read_text().count("trained before") == len(done)
    assert not list(results.glob(".*"))
    (file,) = results.glob("finetune-*__nano__host.json")
    result = json.loads(file.read_text())
    settings = load_recipe(None, KILLED, flags={"student.image_size": 16, "device": "cpu"})
    fresh = evaluate("nano", pictures(), "finetune", recipe=settings)
    assert timeless(result) == timeless(fresh)


def test_a_record_is_for_the_same_settings_weights_and_images_only(tmp_path: Path) -> None:
    save_student(build_student("nano", 16, seed=1), tmp_path / "other.safetensors", {})
    fit = Fit("full", 0.5, 0)
    key = Fitting(subject()).key(fit)
    assert key == Fitting(subject()).key(fit) == Fitting(subject(seeds=[4], backbone="frozen")).key(fit)
    others = [
        Fitting(subject()).key(Fit("full", 0.5, 1)), Fitting(subject()).key(Fit("full", 0.5, 0, True)),
        Fitting(subject(epochs=4)).key(fit), Fitting(subject(data="synthetic:40x16")).key(fit),
        Fitting(subject(size=18)).key(fit), Fitting(subject(str(tmp_path / "other.safetensors"))).key(fit),
    ]  # fmt: skip
    assert len({key, *others}) == 7


# teachers, artifacts


@pytest.fixture
def resnet(tmp_path: Path) -> str:
    torch.manual_seed(1)
    save_file(timm_network("resnet10t", None).state_dict(), tmp_path / "resnet.safetensors")
    return f"timm:resnet10t?image_size=32@{tmp_path / 'resnet.safetensors'}"


@pytest.fixture
def vit(tmp_path: Path) -> str:
    torch.manual_seed(1)
    options = {"patch_size": 8, "embed_dim": 48, "depth": 2, "num_heads": 3}
    net = timm_network("vit_tiny_patch16_224", 16, **options)
    save_file(net.state_dict(), tmp_path / "vit.safetensors")
    query = "&".join(f"{k}={v}" for k, v in options.items())
    return f"timm:vit_tiny_patch16_224?image_size=16&{query}@{tmp_path / 'vit.safetensors'}"


@pytest.mark.parametrize("which", ["resnet", "vit"])
def test_teachers_learn_too(which: str, request: pytest.FixtureRequest) -> None:
    made = subject(request.getfixturevalue(which), size=None, epochs=2)
    teacher = made.encoder.module  # type: ignore[attr-defined]
    before = state(teacher)
    fitting = Fitting(made)
    trained = fitting.fitted(Fit("full", 0.3, 0))[0].student
    assert isinstance(trained, Thawed) and same(state(teacher), before)
    after = state(trained.teacher)
    assert any(not torch.equal(before[n], after[n]) for n in before if n.startswith("net."))
    assert any(m.training for m in trained.train().teacher.net.modules())
    assert not any(m.training for m in trained.eval().modules())
    x = torch.rand(4, 3, made.image_size, made.image_size)
    own, drawn, again = learner(made).eval(), learner(made, 3).eval(), learner(made, 3).eval()
    with torch.no_grad():
        assert torch.equal(own(x), teacher(x))
        assert torch.equal(drawn(x), again(x)) and not torch.allclose(drawn(x), own(x), atol=1e-3)


def test_a_head_is_drawn_anew_with_the_rest(tmp_path: Path) -> None:
    student = build_student("nano", 16, seed=0)
    student = student.aligned(linear_head(student.embed_dim, [20]))
    save_student(student, tmp_path / "student.safetensors", {})
    made = subject(str(tmp_path / "student.safetensors"), size=None)
    own, drawn = learner(made), learner(made, 7)
    assert state(own).keys() == state(drawn).keys() and drawn.embed_dim == 20
    assert not torch.equal(own.head[0].weight, drawn.head[0].weight)  # type: ignore[index,union-attr]


def averaging_onnx(file: Path) -> Path:
    """A network of one average over a grid of 4 x 4: 48 numbers of a 16 px image."""
    onnx = pytest.importorskip("onnx")
    helper, f32 = onnx.helper, onnx.TensorProto.FLOAT
    nodes = [
        helper.make_node("AveragePool", ["x"], ["y"], kernel_shape=[4, 4], strides=[4, 4]),
        helper.make_node("Flatten", ["y"], ["z"]),
    ]
    shapes = [helper.make_tensor_value_info(n, f32, s) for n, s in (("x", ["b", 3, 16, 16]), ("z", ["b", 48]))]
    graph = helper.make_graph(nodes, "average", shapes[:1], shapes[1:])
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9), file)
    return file


def artifact(folder: Path) -> Model:
    folder.mkdir()
    file = averaging_onnx(folder / "model.onnx")
    write_card(folder, {
        "target": "onnx", "scheme": "none", "file": file.name, "embed_dim": 48, "input": {"name": "x"},
        "output": {"name": "z"}, "preprocess": Preprocess(16).to_dict(),
    })  # fmt: skip
    return resolve(str(folder))


@pytest.mark.parametrize("kind", ["artifact", "onnx teacher"])
def test_what_has_no_gradients_can_be_frozen_only(kind: str, tmp_path: Path) -> None:
    pytest.importorskip("onnxruntime")
    if kind == "artifact":
        model = artifact(tmp_path / "artifact")
    else:
        model = resolve(str(averaging_onnx(tmp_path / "net.onnx")))
    for augment in (None, True):
        settings = {"backbone": "frozen", "epochs": 6, "augment": augment}
        fitting = Fitting(Subject(model, Workspace(recipe(size=None, **settings))))
        record = fitting.run(FROZEN)
        losses = [row["loss"] for row in record["curve"]]
        assert losses[-1] < losses[0] and record["augment"] is bool(augment)
        assert fitting.key(FROZEN) == fitting.key(FROZEN)
    for refused in ({"backbone": "full"}, {"backbone": "frozen", "scratch": True}):
        with pytest.raises(UserError, match="no gradients") as e:
            finetune.run(Subject(model, Workspace(recipe(size=None, **refused))))
        assert "eval.finetune.backbone=frozen" in e.value.hint


def test_what_it_refuses(tmp_path: Path) -> None:
    for i in range(12):
        Image.new("RGB", (16, 16), (i * 20, 0, 0)).save(tmp_path / f"{i}.png")
    with pytest.raises(UserError, match="no labels"):
        finetune.run(subject(data=str(tmp_path)))
    fitting = Fitting(subject())
    fitting.train.labels[:] = 3
    with pytest.raises(UserError, match="all of one class"):
        fitting.run(FROZEN)
    fitting = subject()
    fitting.work.images("test").classes.append("another")
    with pytest.raises(UserError, match="are not those of the query set"):
        Fitting(fitting)
    with pytest.raises(UserError, match=r"eval\.finetune"):
        load_recipe(None, ["eval.finetune.views.size=32"])
    assert load_recipe(None, ["eval.finetune.backbone=full"]).eval.finetune.backbone == ["full"]


# the maths


@given(st.integers(1, 30), st.integers(2, 12), st.integers(0, 9))
def test_top_k_is_torchmetrics(n: int, classes: int, seed: int) -> None:
    functional = pytest.importorskip("torchmetrics.functional")
    rng = np.random.default_rng(seed)
    logits, labels = rng.normal(size=(n, classes)).astype(np.float32), rng.integers(0, classes, n)
    for k in (1, min(3, classes)):
        wanted = functional.accuracy(
            torch.from_numpy(logits), torch.from_numpy(labels), task="multiclass", num_classes=classes, top_k=k,
            average="micro",
        )  # fmt: skip
        assert top_k(logits, labels, k) == pytest.approx(float(wanted), abs=1e-6)
    assert top_k(logits, labels, 3) >= top_k(logits, labels, 1)
    assert cross_entropy(logits, labels) == pytest.approx(
        float(F.cross_entropy(torch.from_numpy(logits).double(), torch.from_numpy(labels)))
    )


def test_ties_go_to_the_class_that_comes_first() -> None:
    logits, labels = np.zeros((4, 4)), np.arange(4)
    assert [top_k(logits, labels, k) for k in (1, 3, 9)] == [0.25, 0.75, 1.0]


def test_rows_are_of_what_differs_in_its_seed_alone() -> None:
    base = {
        "backbone": "full", "fraction": 0.2, "scratch": False, "augment": True, "n_train": 8, "n_held_out": 2,
        "top3": 0.9, "seconds": 1.26, "best_epoch": 1, "curve": [{}, {}],
    }  # fmt: skip
    records = [{**base, "top1": 0.5}, {**base, "top1": 0.7}, {**base, "top1": 0.1, "scratch": True}]
    rows = table(records)
    assert [r["top1_by_seed"] for r in rows] == [[0.5, 0.7], [0.1]]
    assert rows[0]["std"] == pytest.approx(0.2 / 2**0.5) and rows[1]["std"] is None
    assert rows[0]["seconds"] == 2.5 and rows[0]["epochs_run"] == [2, 2]


def test_settings_say_how_few_they_may_be() -> None:
    for bad in ({"fractions": []}, {"epochs": 0}, {"held_out": 1.0}, {"backbone": "half"}, {"patience": 0}):
        with pytest.raises(ValueError):
            FinetuneConfig.model_validate(bad)

"""fit: what it logs, writes and refuses."""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import pytest
import tiny_run
import torch
from torch import Tensor

from lowdino_edge.errors import UserError
from lowdino_edge.methods.base import Batch
from lowdino_edge.methods.dino import Dino
from lowdino_edge.models.backbone import Student, build_student
from lowdino_edge.models.student_file import load_student
from lowdino_edge.run import Run
from lowdino_edge.train import checkpoint
from lowdino_edge.train.feed import Feed
from lowdino_edge.train.guard import PATIENCE, CollapseWatch, avoid_onednn_fault
from lowdino_edge.train.loop import Trainer, measure_speed
from lowdino_edge.types import At, Progress


class Poisoned(Dino):
    """From a step on its loss, or only the gradient of it, is not a number."""

    at, what = 7, "loss"

    def step(self, batch: Batch, progress: Progress) -> dict[str, Tensor]:
        out = super().step(batch, progress)
        if progress.step >= self.at:
            if self.what == "loss":
                out["loss"] = out["loss"] * math.nan
            else:
                out["loss"].register_hook(lambda grad: grad * math.inf)
        return out


def poisoned(what: str) -> Poisoned:
    made = Poisoned(build_student("nano", 16, seed=0), tiny_run.config(), seed=0)
    made.what = what
    return made


def test_rows_of_metrics(tmp_path: Path) -> None:
    result = tiny_run.train(tmp_path, evaluate=lambda student: {"knn_top1": 0.25})
    rows = Run(tmp_path).history()
    logged = [r for r in rows if "loss" in r]
    assert [r["step"] for r in logged] == list(range(1, 13))
    for key in ("lr", "wd", "img_s", "teacher_entropy", "kl", "embedding_std", "teacher_momentum", "grad_norm"):
        assert all(math.isfinite(r[key]) for r in logged), key
    assert [r["epoch"] for r in logged][3::4] == [1, 2, 3]
    assert all(r["loss"] == pytest.approx(r["teacher_entropy"] + r["kl"], rel=1e-4) for r in logged)
    assert [(r["step"], r["knn_top1"]) for r in rows if "knn_top1" in r] == [(4, 0.25), (8, 0.25), (12, 0.25)]
    assert result["steps"] == 12 and result["final_loss"] == logged[-1]["loss"]
    assert result["knn_last"] == result["knn_best"] == 0.25


def test_writes_the_network_that_ships(tmp_path: Path) -> None:
    made = tiny_run.method()
    tiny_run.train(tmp_path, None, made, card={"data": "tiny"}, evaluate=lambda student: {"knn_top1": 0.5})
    card = json.loads(Run(tmp_path).student_card.read_text())
    assert card["data"] == "tiny" and card["method"] == "dino" and card["knn_top1"] == 0.5 and card["epochs"] == 3
    loaded, teacher = load_student(tmp_path), made.deployed()
    x = torch.rand(4, 3, 16, 16)
    torch.testing.assert_close(loaded(x), teacher.eval()(x))


def test_evaluation_sees_the_deployed_network_in_eval_mode_and_changes_nothing(tmp_path: Path) -> None:
    made = tiny_run.method()
    seen = []

    def evaluate(student: Student) -> dict[str, float]:
        seen.append((student is made.deployed(), student.training, torch.is_grad_enabled()))
        student.train(False)
        torch.rand(3)  # an evaluation that draws must not move the training
        return {"knn_top1": 0.0}

    tiny_run.train(tmp_path / "a", None, made, evaluate=evaluate)
    assert seen == [(True, False, False)] * 3
    tiny_run.train(tmp_path / "b")
    a, b = (json.loads((tmp_path / p / "student.json").read_text())["sha256"] for p in "ab")
    assert a == b


def test_fractional_epochs_and_evaluation_only_at_the_end(tmp_path: Path) -> None:
    cfg = tiny_run.config(epochs=1.5, knn_every=0)
    assert tiny_run.train(tmp_path, cfg, evaluate=lambda s: {"knn_top1": 0.0})["steps"] == 6
    assert [r["step"] for r in Run(tmp_path).history() if "knn_top1" in r] == [6]


def test_another_seed_is_another_run(tmp_path: Path) -> None:
    for name, seed in (("a", 0), ("b", 0), ("c", 1)):
        tiny_run.train(tmp_path / name, tiny_run.config(epochs=1), seed=seed)
    a, b, c = (tiny_run.rows(tmp_path / name) for name in "abc")
    assert a == b and a != c


@pytest.mark.parametrize("what", ["loss", "gradient"])
def test_not_a_number_names_the_step_and_keeps_the_last_good_checkpoint(tmp_path: Path, what: str) -> None:
    made = poisoned(what)
    with pytest.raises(UserError, match=f"the {what} is not a finite number at step 7"):
        tiny_run.train(tmp_path, made=made)
    assert not Run(tmp_path).student.exists()
    other = Trainer(tiny_run.method(), tiny_run.pixels(), tiny_run.config(), seed=0, device="cpu")
    identity = {"seed": 0, "total_steps": 12, "batch_size": 8, "data": "tiny-data"}
    assert checkpoint.load(tmp_path / "checkpoints", other.method, other.optimizer, identity) == 6
    assert all(torch.isfinite(p).all() for p in made.parameters())
    tiny_run.train(tmp_path, resume=True)


def test_batch_larger_than_the_data(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"a batch of 64 is larger than the data \(33 images\)"):
        tiny_run.train(tmp_path, tiny_run.config(batch_size=64))
    assert not any(tmp_path.iterdir())


def test_bf16_needs_cuda(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="bf16 needs CUDA"):
        tiny_run.train(tmp_path, tiny_run.config(precision="bf16"))


def test_feed_shows_every_image_once_an_epoch_but_the_leftover() -> None:
    feed = Feed(tiny_run.pixels(), 8, 0, "cpu")
    first = np.concatenate([feed.rows(s) for s in range(4)])
    second = np.concatenate([feed.rows(s) for s in range(4, 8)])
    assert len(set(first)) == len(set(second)) == 32
    assert list(first) != list(second)
    assert list(feed.rows(2)) == list(first[16:24])  # asked again, out of order


def test_the_method_is_told_which_images_it_sees() -> None:
    """`Batch.index_B` and the views belong together: without augmentation a view is its image."""
    data, told = tiny_run.pixels(), []

    def plan(u8_BCHW: torch.Tensor, generator: torch.Generator, at: At) -> list[torch.Tensor]:
        told.append(at)
        return [u8_BCHW.float() / 255]

    feed = Feed(data, 8, 0, "cpu")
    batch = feed.batch(feed.steps_per_epoch + 1, plan)
    assert told[0].epoch == 1 and torch.equal(batch.index_B, torch.from_numpy(told[0].index_B))
    assert torch.equal(batch.views[0], torch.from_numpy(data.u8_NCHW[batch.index_B.numpy()]).float() / 255)


@pytest.mark.parametrize(
    ("entropy", "kl", "std", "kind"),
    [
        (1.0, 0.0, 0.5, "uniform"),
        (0.0, 0.0, 0.5, "one dominant dimension"),
        (1.0, 0.1, 0.5, None),
        (0.7, 0.0, 0.5, None),
        (0.7, 0.1, 0.001, "constant"),
    ],
)
def test_collapse_is_named_once_or_stops_the_run(
    capsys: pytest.CaptureFixture[str], entropy: float, kl: float, std: float, kind: str | None
) -> None:
    row = {"teacher_entropy": entropy * math.log(8), "kl": kl, "embedding_std": std}
    watch, stops = CollapseWatch(math.log(8), 10), CollapseWatch(math.log(8), 10, "stop")
    for step in (*range(11), *[12] * (PATIENCE - 1)):
        watch.see(step, row)
        stops.see(step, row)
    assert capsys.readouterr().err == ""
    found = [watch.see(step, row) for step in range(20, 50)]
    told = capsys.readouterr().err
    assert [f.kind.split(":")[0] for f in found if f] == ([kind] if kind else [])
    assert told.count("collapse at step 20, ") == (kind is not None)
    if kind:
        with pytest.raises(UserError, match=f"collapse at step 60, {kind}"):
            stops.see(60, row)


def test_a_collapsed_run_that_stops_keeps_its_curves(tmp_path: Path) -> None:
    head = {"hidden_dim": 32, "bottleneck_dim": 16, "prototypes": 32}
    cfg = tiny_run.config(
        epochs=30, on_collapse="stop", knn_every=0, dino={"head": head, "teacher_temp": 50.0, "student_temp": 50.0}
    )
    with pytest.raises(UserError, match="uniform") as e:
        tiny_run.train(tmp_path, cfg)
    assert "teacher_temp" in e.value.hint
    last = Run(tmp_path).history()[-1]["step"]
    assert last < 120 and checkpoint.complete(Run(tmp_path).checkpoints)[-1].name == f"step_{last:06d}"


def test_collapse_watch_reads_what_methods_log(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A teacher without sharpening is uniform from the first step: DINO's documented collapse."""
    head = {"hidden_dim": 32, "bottleneck_dim": 16, "prototypes": 32}
    dino = {"head": head, "teacher_temp": 50.0, "student_temp": 50.0}
    tiny_run.train(tmp_path, tiny_run.config(dino=dino))
    assert capsys.readouterr().err.count("warning: collapse") == 1


def test_speed_is_measured_without_writing(tmp_path: Path) -> None:
    assert measure_speed(tiny_run.method(), tiny_run.pixels(), tiny_run.config(), device="cpu", seed=0, seconds=0.1) > 1


def test_strided_1x1_convolutions_train_beside_onednns_fault() -> None:
    """Channels last, the plain network corrupts the heap (torch 2.14.1 on x86) and takes the process with it."""
    torch.manual_seed(0)
    network = torch.nn.Sequential(torch.nn.Conv2d(3, 48, 1, stride=2), torch.nn.Conv2d(48, 8, 3))
    images_NCHW = torch.rand(16, 3, 32, 32)
    network(images_NCHW).square().mean().backward()
    expected = [p.grad.clone() for p in network.parameters() if p.grad is not None]
    network.zero_grad()

    network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    avoid_onednn_fault(network)
    for _ in range(3):
        network.zero_grad()
        network(images_NCHW.contiguous(memory_format=torch.channels_last)).square().mean().backward()
    for p, grad in zip(network.parameters(), expected, strict=True):
        torch.testing.assert_close(p.grad, grad, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("id", ["fastvit_t8", "repvit_m0_9"])
def test_students_with_stems_of_branches_train_on_a_cpu(id: str) -> None:
    cfg = tiny_run.config(views={"local": {"size": 32}})
    method = Dino(build_student(id, 32, seed=0), cfg, seed=0)
    assert measure_speed(method, tiny_run.pixels(size=32), cfg, device="cpu", seed=0, seconds=0.0) > 0

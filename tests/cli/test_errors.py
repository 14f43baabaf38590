"""Bad input on the command line: one line what, one line how, exit 1, nothing half-written; usage exits 2."""

from __future__ import annotations

import errno
from pathlib import Path

import numpy as np
import pytest
from forked import lowdino
from PIL import Image

from lowdino_edge.exits import guarded


def picture(path: Path, seed: int = 0) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.random.default_rng(seed).integers(0, 255, (40, 40, 3), dtype=np.uint8)).save(path)


@pytest.fixture
def few(tmp_path: Path) -> Path:
    """Twelve labelled pictures in two classes."""
    for split in ("train", "val"):
        for i in range(6):
            picture(tmp_path / "few" / split / "ab"[i % 2] / f"{i}.png", i)
    return tmp_path / "few"


TRAIN = ("train", "--student", "nano", "--epochs", "1", "--batch-size", "4")


@pytest.mark.parametrize(
    ("args", "what", "how"),
    [
        ((*TRAIN, "--data", "./absent"), "absent", "folder"),
        ((*TRAIN, "--data", "./empty"), "no image", ""),
        ((*TRAIN, "--data", "./single"), "only one image", "two or more"),
        ((*TRAIN, "--data", "./few", "--student", "nanno"), "unknown student 'nanno'", "nano"),
        ((*TRAIN, "--data", "./few", "--set", "train.epoch=2"), "unknown key 'train.epoch'", "epochs"),
        ((*TRAIN, "--data", "./few", "--image-size", "33", "--student", "vit_tiny_d10"), "33 px", "--image-size"),
        ((*TRAIN, "--data", "./few", "--batch-size", "64"), "batch", "batch"),
        ((*TRAIN, "--data", "./few", "--method", "dinoo"), "unknown method 'dinoo'", "dino"),
        ((*TRAIN, "--data", "./few", "--device", "cudaa"), "unknown device", "cpu"),
        ((*TRAIN, "--data", "./few", "--set", "train.views.global.count=1"), "view", ""),
        (("run", "absent.yaml"), "no recipe at 'absent.yaml'", "YAML"),
        (("eval", "./absent-run", "--data", "synthetic"), "no model at './absent-run'", "run"),
        (("eval", "nan0", "--data", "synthetic"), "unknown model 'nan0'", "nano"),
        (("eval", "nano", "--data", "./few", "--task", "kmn"), "unknown task 'kmn'", "knn"),
        (("export", "nano", "--target", "corml"), "unknown target 'corml'", "coreml"),
        (("export", "nano", "--target", "onnx", "--quantize", "w5"), "unknown scheme 'w5'", "w8"),
        (
            ("distill", "--teacher", "dinov2_vits15", "--data", "./few", "--student", "nano"),
            "dinov2_vits15",
            "dinov2_vits14",
        ),
        (("benchmark", "nano", "--data", "./few", "--device", "hostt"), "unknown device 'hostt'", "host"),
        (("benchmark", "nano", "--data", "./few", "--device", "host:2"), "'host:2' is no device", "host"),
        (("benchmark", "nano", "--data", "./few", "--device", "coreml:x"), "'coreml:x' is no device", "coreml"),
        (("report", "x" * 5000), "File name too long", "shorter"),
        (("serve", "./absent-run"), "'absent-run' is no run", "quickstart"),
        (("list", "student"), "unknown table 'student'", "students"),
    ],
    ids=lambda v: " ".join(map(str, v))[:60] if isinstance(v, tuple) else "",
)
def test_one_line_what_one_line_how(args: tuple[str, ...], what: str, how: str, few: Path, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    picture(tmp_path / "single" / "only.png")
    out = tmp_path / "out"
    extra = () if args[0] == "list" else ("--quiet",)
    extra += ("--out", str(out)) if args[0] in ("train", "distill", "export", "run") else ()
    done = lowdino(*args, *extra, cwd=tmp_path)
    assert done.returncode == 1, done.stderr
    lines = [line for line in done.stderr.strip().splitlines() if not line.startswith("warning:")]
    assert len(lines) == 2, done.stderr
    assert lines[0].startswith("error: ")
    assert what in lines[0], lines
    assert how in lines[1], lines
    assert "Traceback" not in done.stderr
    assert not out.exists(), sorted(out.rglob("*"))


def test_existing_run_is_kept(few: Path, tmp_path: Path) -> None:
    out = tmp_path / "kept"
    out.mkdir()
    (out / "thesis.txt").write_text("mine")
    for extra in ((), ("--overwrite",)):
        done = lowdino(*TRAIN, "--data", few, "--out", out, *extra, "--quiet", cwd=tmp_path)
        assert done.returncode == 1
        assert "already exists" in done.stderr or "no lowdino run" in done.stderr
    assert [p.name for p in out.iterdir()] == ["thesis.txt"]


def test_overwriting_costs_nobody_a_file(few: Path, tmp_path: Path) -> None:
    """A failed start puts the earlier run back; what is no part of a run is never deleted, whatever the flags."""
    out = tmp_path / "run"
    out.mkdir()
    (out / "recipe.yaml").write_text("name: earlier\n")
    (out / "DONE").write_text("then\n")
    done = lowdino(*TRAIN, "--data", tmp_path / "nowhere", "--out", out, "--overwrite", "--quiet", cwd=tmp_path)
    assert done.returncode == 1 and "does not exist" in done.stderr
    assert sorted(p.name for p in out.iterdir()) == ["DONE", "recipe.yaml"]
    assert not list(tmp_path.glob(".run*"))
    (out / "thesis.txt").write_text("mine")
    done = lowdino(*TRAIN, "--data", few, "--out", out, "--overwrite", "--quiet", cwd=tmp_path)
    assert done.returncode == 1 and "thesis.txt" in done.stderr
    photos = tmp_path / "photos"
    photos.mkdir()
    (photos / "me.txt").write_text("mine")
    done = lowdino(*TRAIN, "--data", few, "--out", photos, "--resume", "--overwrite", "--quiet", cwd=tmp_path)
    assert done.returncode == 1 and "no lowdino run" in done.stderr
    done = lowdino("report", photos, cwd=tmp_path)
    assert done.returncode == 1 and "holds no files of a run" in done.stderr
    assert [p.name for p in photos.iterdir()] == ["me.txt"]


def test_a_file_as_out_and_a_negative_seed(few: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("mine")
    done = lowdino(*TRAIN, "--data", few, "--out", tmp_path / "file", "--quiet", cwd=tmp_path)
    assert done.returncode == 1 and "is a file" in done.stderr
    done = lowdino(*TRAIN, "--data", few, "--out", tmp_path / "out", "--seed", "-1", "--quiet", cwd=tmp_path)
    assert done.returncode == 1 and "bad value for 'seed'" in done.stderr


@pytest.mark.parametrize("args", [("trian",), ("train", "--batch-size", "many"), ("eval", "nano"), ("export",)])
def test_wrong_usage_exits_with_2(args: tuple[str, ...], tmp_path: Path) -> None:
    done = lowdino(*args, cwd=tmp_path)
    assert done.returncode == 2
    assert "Traceback" not in done.stderr


def test_nan_loss_names_the_step_and_keeps_the_checkpoint(few: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    diverge = ("train.optim.name=sgd", "train.optim.lr=1e25", "train.optim.clip_grad=0", "train.checkpoint_every=1")
    sets = [x for s in (*diverge, "train.optim.warmup_epochs=0", "train.knn_every=0") for x in ("--set", s)]
    done = lowdino(*TRAIN, "--data", few, "--epochs", "40", *sets, "--out", out, "--quiet", cwd=tmp_path)
    assert done.returncode == 1, done.stderr
    lines = [line for line in done.stderr.strip().splitlines() if not line.startswith("warning:")]
    assert "not a finite number at step" in lines[0], done.stderr
    assert "lr" in lines[1]
    assert any((out / "checkpoints").glob("*/meta.json"))
    assert not (out / "student.safetensors").exists()


def test_corrupted_checkpoint_is_named(few: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    args = (*TRAIN, "--data", few, "--out", out, "--set", "train.knn_every=0", "--quiet")
    assert lowdino(*args, cwd=tmp_path).returncode == 0
    (out / "DONE").unlink()
    (file,) = (out / "checkpoints").glob("*/method.safetensors")
    data = bytearray(file.read_bytes())
    data[-1] ^= 1
    file.write_bytes(data)
    done = lowdino(*args, "--resume", cwd=tmp_path)
    assert done.returncode == 1
    assert str(file.parent.name) in done.stderr and "Traceback" not in done.stderr
    assert (out / "student.safetensors").is_file()


def test_teacher_that_cannot_be_had_names_the_file(few: Path, tmp_path: Path) -> None:
    args = ("distill", "--teacher", "dinov2_vits14", "--student", "nano", "--data", few, "--out", tmp_path / "out")
    done = lowdino(*args, "--set", "data.download=false", "--quiet", cwd=tmp_path)
    assert done.returncode == 1
    assert "dinov2_vits14_pretrain.pth" in done.stderr
    assert not (tmp_path / "out").exists()


def test_foreign_cache_names_both_values(few: Path, tmp_path: Path) -> None:
    start = (*TRAIN, "--method", "simclr", "--data", few, "--quiet")
    for seed in ("0", "1"):
        done = lowdino(*start, "--seed", seed, "--out", tmp_path / f"teacher{seed}", cwd=tmp_path)
        assert done.returncode == 0, done.stderr
    for seed in ("0", "1"):
        made = ("cache", "--teacher", tmp_path / f"teacher{seed}", "--data", few, "--out", tmp_path / f"cache{seed}")
        assert lowdino(*made, "--quiet", cwd=tmp_path).returncode == 0
    (own,), (foreign,) = ((tmp_path / f"cache{s}").iterdir() for s in "01")
    for file in own.iterdir():
        file.unlink()
    for file in foreign.iterdir():
        (own / file.name).write_bytes(file.read_bytes())
    made = ("cache", "--teacher", tmp_path / "teacher0", "--data", few, "--out", tmp_path / "cache0")
    done = lowdino(*made, "--quiet", cwd=tmp_path)
    assert done.returncode == 1, done.stderr
    assert "teacher" in done.stderr and "Traceback" not in done.stderr


@pytest.mark.parametrize(("resumable", "advice"), [(True, "--resume continues"), (False, "the same command again")])
def test_a_full_disk(resumable: bool, advice: str, capsys: pytest.CaptureFixture[str]) -> None:
    """Only what takes --resume is said to take it."""

    def call() -> None:
        raise OSError(errno.ENOSPC, "No space left on device", "/somewhere")

    assert guarded(call, resumable) == 1
    said = capsys.readouterr().err.splitlines()
    assert said[0] == "error: No space left on device '/somewhere'" and said[1].endswith(advice)

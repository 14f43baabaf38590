"""Where the commands of the pages run: a few small images, a network trained for a moment, a teacher of random weights;
and what makes a command small enough to run here."""

from __future__ import annotations

import itertools
import shutil
from pathlib import Path

import numpy as np
from PIL import Image
from safetensors.torch import save_file
from snippets import PAGES, ROOT, blocks

from lowdino_edge import api, cli
from lowdino_edge import options as o
from lowdino_edge.config import load_recipe
from lowdino_edge.models.backbone import timm_network

# Why a command of the pages is not run by the test of its page. Its options are checked in any case.
NOT_RUN = {
    "serve": "runs until it is stopped: tests/serve and tests/mobile run it",
    "run recipes/paper": "days: tests/test_recipes.py runs every row reduced",
    "run quickstart": "tests/test_recipes.py runs it reduced, `make demo` as it is",
    "--device ssh": "wants a board: tests/devices runs it against a real sshd",
    "--device adb": "wants a phone: tests/devices runs it against adb's real client",
    "--device browser": "wants a browser: tests/serve/test_browser.py runs it",
    "MODEL": "stands for any model",
    "doctor": "imports every converter: tests/cli/test_commands.py runs it",
}
TEACHER = "dinov2_vits14?image_size=56@dinov2_vits14_pretrain.safetensors"
STAND_INS = {"--student": "nano", "--image-size": "32", "--epochs": "1", "--batch-size": "8", "--runs": "5",
             "--max-knn-drop": "100"}  # fmt: skip
_LOOP = ("batch_size=8", "epochs=1", "optim.warmup_epochs=0")
_TRAIN = (*(f"train.{k}" for k in _LOOP), "train.views.global.size=32", "train.views.local.size=32")
_DISTILL = (*(f"distill.{k}" for k in _LOOP), "distill.prototypes=8", "distill.qat_epochs=1", "distill.views.size=32")
_SIZE = ("student.id=nano", "student.image_size=32")
_EXPORT = ("export.calibration_images=8", "export.parity_images=8", "export.max_knn_drop=100")
_BENCH = ("benchmark.runs=5", "benchmark.warmup=1")
SETS: dict[str, tuple[str, ...]] = {
    "train": (*_SIZE, *_TRAIN),
    "distill": (*_SIZE, *_DISTILL),
    "export": _EXPORT,
    "benchmark": _BENCH[1:],
    "eval": ("eval.mlp.epochs=1", "eval.finetune.epochs=1", "eval.linear.seeds=[0]"),
}


def make(place: Path, schemes: tuple[str, ...] = ("none", "w8a8")) -> None:
    """Fills the sandbox; the current directory is `place`."""
    rng = np.random.default_rng(0)
    for split, n in (("train", 10), ("val", 6)):
        for k, colour in enumerate(("amber", "blue", "crimson")):
            for i in range(n):
                pixels = rng.integers(0, 160, (40, 40, 3)).astype(np.uint8)
                pixels[..., k] += 90
                file = place / "photos" / split / colour / f"{i}.png"
                file.parent.mkdir(parents=True, exist_ok=True)
                Image.fromarray(pixels).save(file)
    for name in ("evaluation", "seeds"):
        (place / name).mkdir()
        for i in range(3):
            shutil.copy(place / "photos" / "val" / "blue" / f"{i}.png", place / name / f"{name}{i}.png")
    (place / "recipes").symlink_to(ROOT / "recipes")
    for block in (b for page in PAGES for b in blocks(page) if b.language == "yaml" and b.title):
        (place / block.title).write_text(block.text, encoding="utf-8")
    dino = timm_network("vit_small_patch14_dinov2.lvd142m", 56)
    save_file({k: v.contiguous() for k, v in dino.state_dict().items()}, place / "dinov2_vits14_pretrain.safetensors")
    recipe = load_recipe(None, ["data.source=photos", *SETS["train"], *_EXPORT], base={"train": {}})
    api.train(recipe, place / "runs" / "mine")
    api.export(str(place / "runs" / "mine"), targets=["onnx"], schemes=schemes, recipe=recipe)
    for name in ("better", "quickstart"):
        shutil.copytree(place / "runs" / "mine", place / "runs" / name)


def make_aligned(place: Path) -> None:
    """A student in its teacher's space, which has to be distilled."""
    sets = [*SETS["distill"], "distill.align=true", f"distill.teacher={TEACHER}", "data.source=photos"]
    api.distill(load_recipe(None, sets, base={"distill": {"init": "random"}}), place / "runs" / "aligned")


def why_not(words: list[str]) -> str | None:
    """Why a command is left to other tests; None: it runs."""
    line = " ".join(words)
    return next((why for part, why in NOT_RUN.items() if line.startswith(part) or f" {part}" in line), None)


def is_here(words: list[str]) -> bool:
    """Whether the images that a command names are in the sandbox; tests/data has every other kind of source."""
    sources = [word for before, word in itertools.pairwise(words) if before in ("--data", "--calibration")]
    return all(Path(source).exists() or source.startswith("synthetic") for source in sources)


def small(words: list[str], targets: tuple[str, ...] = ("onnx",)) -> list[str]:
    """The same command on few images, for a moment. `targets`: what `--target` other than these becomes one of."""
    command, *rest = words
    out = [command]
    for before, word in zip(words, rest, strict=False):
        if before in STAND_INS:
            word = STAND_INS[before]
        if before == "--out" and command in ("train", "distill", "run"):
            word = word.replace("runs/", "made/")  # what other commands read is not written to
        if before in ("--target", "--format") and word not in targets:
            word = targets[0]
        if before in ("--teacher", "--bank-from", "--encoder") or (command == "eval" and before == "eval"):
            word = word.replace(".pth", ".safetensors")
            word = TEACHER if "dinov2" in word else word
        out.append(word)
    for key in SETS.get(command, ()):
        out += ["--set", key]
    if command == "run":
        out += _chain(Path(rest[0]), targets)
    if command in ("train", "distill", "run") and not {"--resume", "--dry-run"} & set(out):
        out.append("--overwrite")
    return out


def _chain(recipe: Path, targets: tuple[str, ...]) -> list[str]:
    """The stages that a recipe has, made small."""
    loaded = load_recipe(recipe)
    sets = [*_SIZE, *_EXPORT, *_BENCH, f"export.targets=[{', '.join(targets)}]", "export.schemes=[none]",
            "data.train_limit=48", "data.test_limit=24"]  # fmt: skip
    sets += _TRAIN if loaded.train is not None else ()
    sets += _DISTILL if loaded.distill is not None else ()
    return [word for key in sets for word in ("--set", key)]


def lowdino(words: list[str]) -> int:
    """Runs a command in this process; its exit code."""
    o.state.update(json=False, debug=False)
    try:
        cli.main(words)
    except SystemExit as e:
        return int(e.code or 0)
    finally:
        o.state.update(json=False, debug=False)
    return 0

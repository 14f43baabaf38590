"""The options that commands share, and the state of --json, --quiet and --debug."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from lowdino_edge import console

state = {"json": False, "debug": bool(os.environ.get("LOWDINO_DEBUG"))}


def _json(value: bool) -> bool:
    state["json"] = value or state["json"]
    return value


def _quiet(value: bool) -> bool:
    console.set_quiet(value)
    return value


def _debug(value: bool) -> bool:
    state["debug"] = value or state["debug"]
    return value


Json = Annotated[bool, typer.Option("--json", callback=_json, help="The last line of stdout is one JSON document.")]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", callback=_quiet, help="No progress on stderr.")]
Debug = Annotated[bool, typer.Option("--debug", callback=_debug, help="Show tracebacks.")]
Data = Annotated[str | None, typer.Option("--data", help="Folder, list, named set, ...: `lowdino list datasets`.")]
Out = Annotated[Path | None, typer.Option("--out", help="Directory (or file) to write.")]
RecipeFile = Annotated[
    Path | None, typer.Option("--recipe", help="YAML file, or name, of a recipe for what has no flag.")
]
Set = Annotated[list[str] | None, typer.Option("--set", help="Override any recipe key: --set train.optim.lr=1e-3.")]
Seed = Annotated[int | None, typer.Option("--seed")]
Device = Annotated[str | None, typer.Option("--device", help="auto, cpu, cuda or mps.")]
Resume = Annotated[bool, typer.Option("--resume", help="Continue the run in --out.")]
Overwrite = Annotated[bool, typer.Option("--overwrite", help="Replace the run in --out.")]
Student = Annotated[str | None, typer.Option("--student", help="See `lowdino list students`.")]
Epochs = Annotated[float | None, typer.Option("--epochs")]
Batch = Annotated[int | None, typer.Option("--batch-size", "--batch", help="Global batch size.")]
ImageSize = Annotated[int | None, typer.Option("--image-size", "--imgsz", help="Pixels; None: the student's own.")]
Precision = Annotated[str | None, typer.Option("--precision", help="auto, fp32 or bf16.")]
Workers = Annotated[int | None, typer.Option("--workers", help="Decoding threads.")]
OnCollapse = Annotated[str | None, typer.Option("--on-collapse", help="warn or stop.")]
DryRun = Annotated[bool, typer.Option("--dry-run", help="Check everything, measure, write nothing.")]

Method = Annotated[str | None, typer.Option("--method", help="See `lowdino list methods`.")]
Teacher = Annotated[
    list[str] | None, typer.Option("--teacher", help="An id, ID@FILE, an .onnx file or a run. Several: repeat it.")
]
TeacherWeights = Annotated[str | None, typer.Option("--teacher-weights", help="Of several teachers, such as 2:1.")]
Losses = Annotated[str | None, typer.Option("--loss", help="Such as kl, or kl=1,cosine=0.5. See the README.")]
Align = Annotated[bool, typer.Option("--align", help="The student itself ends in the teacher's space.")]
Qat = Annotated[
    str | None, typer.Option("--qat", help="w8a8: the last epochs compute in 8 bits, so that int8 loses less.")
]
CacheDir = Annotated[
    str | None, typer.Option("--cache", help="Directory of teacher targets; none: ask the teacher every time.")
]
Init = Annotated[Path | None, typer.Option("--init", help="A run or student.safetensors to start from.")]
Targets = Annotated[
    list[str] | None, typer.Option("--target", "--format", help="A target of `lowdino list targets`, or all.")
]
Quantize = Annotated[list[str] | None, typer.Option("--quantize", help="See `lowdino list schemes`.")]
MaxDrop = Annotated[
    float | None, typer.Option("--max-knn-drop", help="Points of kNN that a quantized file may lose. Default: 1.0.")
]
Deployment = Annotated[str | None, typer.Option("--deployment-target", help="Core ML: iOS16, iOS17 or iOS18.")]
Calibrate = Annotated[str | None, typer.Option("--calibration", help="SRC of real images, for ranges and proof.")]
Source = Annotated[str, typer.Option("--data", help="Folder, list, named set, ...: `lowdino list datasets`.")]
Split = Annotated[Literal["train", "test"], typer.Option("--split")]
File = Annotated[Path, typer.Option("--out", help="An .npz file.")]
Shards = Annotated[Path, typer.Option("--out", help="A new directory for the shards.")]
PerShard = Annotated[int | None, typer.Option("--per-shard", help="Images of a shard. Default: about 256 MB.")]
Task = Annotated[str, typer.Option("--task", help="One of `lowdino list tasks`.")]
ResultsDir = Annotated[
    Path | None, typer.Option("--out", help="Where results/ goes. Default: into the run that MODEL belongs to.")
]
BankFrom = Annotated[
    str | None, typer.Option("--bank-from", help="Retrieval: the model whose embeddings are searched. Default: MODEL.")
]
K = Annotated[int | None, typer.Option("--k", help="Neighbours that vote.")]
Temperature = Annotated[float | None, typer.Option("--temperature", help="Votes weigh exp(similarity / temperature).")]
Protocol = Annotated[str | None, typer.Option("--protocol", help="standard or lowdino-legacy.")]
Where = Annotated[list[str] | None, typer.Option("--device", help="host, ssh:USER@BOARD, adb:SERIAL, browser, coreml.")]
Threads = Annotated[int | None, typer.Option("--threads")]
Runs = Annotated[int | None, typer.Option("--runs", help="Timed calls per model.")]
Port = Annotated[int | None, typer.Option("--port", help="Default: 8150, or the next that is free.")]
Lan = Annotated[bool, typer.Option("--lan", help="For a phone in the same network: https and a one-time token.")]
Version = Annotated[bool, typer.Option("--version", help="Print the version.")]
RecipePath = Annotated[
    Path,
    typer.Argument(metavar="RECIPE", help="YAML file, a directory of them, or a name of `lowdino list recipes`."),
]
Model = Annotated[str, typer.Argument(metavar="MODEL")]
Models = Annotated[list[str], typer.Argument(metavar="MODEL...")]
RunPath = Annotated[Path, typer.Argument(metavar="RUN")]
What = Annotated[
    str, typer.Argument(metavar="students|teachers|methods|tasks|targets|schemes|datasets|devices|recipes")
]

Against = Annotated[
    list[str] | None,
    typer.Option("--against", help="SRC of an evaluation set: nothing that is in it stays. Repeat it for several."),
]
SeedData = Annotated[str | None, typer.Option("--seed-data", help="SRC of images whose like are wanted.")]
PerQuery = Annotated[int | None, typer.Option("--per-query", help="Nearest images of each seed. Default: 100.")]
Clusters = Annotated[int | None, typer.Option("--clusters", help="k-means clusters to draw from, with --per-cluster.")]
PerCluster = Annotated[int | None, typer.Option("--per-cluster", help="Images from the cluster of each seed.")]
Total = Annotated[int | None, typer.Option("--total", help="At most so many images.")]
CurateEncoder = Annotated[str | None, typer.Option("--encoder", help="MODEL whose embeddings are compared.")]
HashDistance = Annotated[int | None, typer.Option("--hash-distance", help="Pairs up to it are looked at. Default: 90.")]
Similarity = Annotated[float | None, typer.Option("--similarity", help="Pairs from this cosine on are looked at.")]

_KEYS = {
    "data": "data",
    "workers": "data.workers",
    "student": "student.id",
    "image_size": "student.image_size",
    "init": "student.weights",
    "seed": "seed",
    "device": "device",
}
_STAGE_KEYS = (
    "epochs",
    "batch_size",
    "precision",
    "method",
    "teacher_weights",
    "losses",
    "cache",
    "qat",
    "on_collapse",
)


def flags(stage: str, given: Mapping[str, Any]) -> dict[str, Any]:
    """The recipe keys that a command's flags stand for; `given` is the command's `locals()`."""
    keys = {key: given[name] for name, key in _KEYS.items() if name in given}
    keys |= {f"{stage}.{name}": given[name] for name in _STAGE_KEYS if name in given}
    if teachers := given.get("teacher"):
        keys[f"{stage}.teacher"] = teachers[0] if len(teachers) == 1 else list(teachers)
    if given.get("align"):
        keys[f"{stage}.align"] = True
    return {k: str(v) if isinstance(v, Path) else v for k, v in keys.items()}

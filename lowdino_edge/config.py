"""Every option of every recipe, checked once and torch-free. `load_recipe` is the only way in.

Precedence: flag > --set > recipe file > the defaults below (LowDINO's Table 2 where the paper gives a figure).
"""

from __future__ import annotations

import re
import types
import typing
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError, model_validator

from lowdino_edge.errors import UserError, nearest

Probability = Annotated[float, Field(ge=0, le=1)]
Positive = Annotated[float, Field(gt=0)]
Fractions = tuple[Annotated[float, Field(gt=0, le=1)], Annotated[float, Field(gt=0, le=1)]]
# YAML reads 2222 as a number
Text = Annotated[str, BeforeValidator(lambda v: str(v) if isinstance(v, int | float) else v)]
Scheme = Literal["none", "fp16", "w8", "dynamic", "p6", "p4", "w8a8"]
Target = Literal["onnx", "executorch", "coreml", "tflite", "executorch-coreml", "executorch-vulkan", "coreai"]


class Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", validate_default=True)


class DataConfig(Strict):
    """Where the images come from and the size at which they are kept in memory."""

    source: str = "synthetic"
    train_limit: Annotated[int, Field(ge=1)] | None = None  # first n images of a seeded shuffle; None: all
    test_limit: Annotated[int, Field(ge=1)] | None = None
    download: bool = True  # named sets may be fetched
    workers: Annotated[int, Field(ge=0)] = 2  # decoding threads


class StudentConfig(Strict):
    id: str = "nano"
    image_size: Annotated[int, Field(ge=8, le=1024)] | None = None  # None: the student's own
    weights: str | None = None  # a student.safetensors or run directory to start from


class ViewConfig(Strict):
    """One kind of random view; probabilities are per sample. Defaults: LowDINO's global crop."""

    count: Annotated[int, Field(ge=0, le=32)] = 2
    size: Annotated[int, Field(ge=8, le=1024)] | None = None  # pixels; None: the student's image size
    scale: Fractions = (0.4, 1.0)  # area of the crop over the area of the image
    ratio: tuple[Positive, Positive] = (3 / 4, 4 / 3)
    hflip: Probability = 0.5
    vflip: Probability = 0.0
    jitter: Probability = 0.8
    brightness: Annotated[float, Field(ge=0, le=1)] = 0.4
    contrast: Annotated[float, Field(ge=0, le=1)] = 0.4
    saturation: Annotated[float, Field(ge=0, le=1)] = 0.2
    hue: Annotated[float, Field(ge=0, le=0.5)] = 0.1
    grey: Probability = 0.2
    blur: Probability = 0.1
    blur_radius: tuple[Positive, Positive] = (0.1, 0.5)  # standard deviation, pixels
    solarise: Probability = 0.0

    @model_validator(mode="after")
    def _ordered(self) -> ViewConfig:
        for name in ("scale", "ratio", "blur_radius"):
            lo, hi = getattr(self, name)
            if lo > hi:
                raise ValueError(f"{name}: the lower bound {lo} is above the upper bound {hi}")
        return self


class ViewsConfig(Strict):
    """Multi-crop: `global` views go to teacher and student, `local` ones to the student only."""

    model_config = ConfigDict(extra="forbid", populate_by_name=True, validate_default=True)
    global_: ViewConfig = Field(default_factory=lambda: ViewConfig(solarise=0.2), alias="global")
    local: ViewConfig = Field(default_factory=lambda: ViewConfig(count=2, scale=(0.05, 0.4), blur=0.5))


class OptimConfig(Strict):
    name: Literal["adamw", "sgd"] = "sgd"
    lr: Positive = 5e-4  # peak, for the batch size as given (no hidden scaling)
    min_lr: Annotated[float, Field(ge=0)] = 1e-6
    warmup_epochs: Annotated[float, Field(ge=0)] = 10
    weight_decay: Annotated[float, Field(ge=0)] = 0.04
    weight_decay_end: Annotated[float, Field(ge=0)] = 0.4
    momentum: Annotated[float, Field(ge=0, lt=1)] = 0.9  # SGD only
    clip_grad: Annotated[float, Field(ge=0)] = 2.0  # 0: off


class HeadConfig(Strict):
    """DINO's projection head: MLP, L2 bottleneck, weight-normed last layer of `prototypes` outputs."""

    hidden_dim: Annotated[int, Field(ge=8)] = 2048
    bottleneck_dim: Annotated[int, Field(ge=8)] = 256
    prototypes: Annotated[int, Field(ge=2)] = 1024
    layers: Annotated[int, Field(ge=1, le=5)] = 3
    batch_norm: bool = False
    norm_last_layer: bool = False


class DinoConfig(Strict):
    head: HeadConfig = HeadConfig()
    student_temp: Positive = 0.1
    teacher_temp: Positive = 0.04
    warmup_teacher_temp: Positive = 0.04
    warmup_teacher_temp_epochs: Annotated[float, Field(ge=0)] = 0
    teacher_momentum: Annotated[float, Field(ge=0, le=1)] = 0.9995  # rises to 1 on a cosine
    centering: Literal["ema", "sinkhorn", "none"] = "ema"
    center_momentum: Annotated[float, Field(ge=0, lt=1)] = 0.9
    freeze_last_layer_epochs: Annotated[float, Field(ge=0)] = 0


class SimclrConfig(Strict):
    layers: Annotated[int, Field(ge=1, le=5)] = 2
    hidden_dim: Annotated[int, Field(ge=8)] = 512
    out_dim: Annotated[int, Field(ge=8)] = 128
    temperature: Positive = 0.2


class LoopConfig(Strict):
    """What train and distill share."""

    epochs: Annotated[float, Field(gt=0)] = 100
    batch_size: Annotated[int, Field(ge=2)] = 64  # global
    precision: Literal["auto", "fp32", "bf16"] = "auto"  # auto: bf16 on CUDA, fp32 elsewhere
    optim: OptimConfig = OptimConfig()
    knn_every: Annotated[float, Field(ge=0)] = 10  # epochs; 0: only at the end
    knn_limit: Annotated[int, Field(ge=1)] | None = 10000  # images of the bank used during training
    checkpoint_every: Annotated[int, Field(ge=1)] = 500  # steps


class TrainConfig(LoopConfig):
    method: str = "dino"
    views: ViewsConfig = Field(default_factory=ViewsConfig)
    dino: DinoConfig = DinoConfig()
    simclr: SimclrConfig = SimclrConfig()


class DistillConfig(LoopConfig):
    """Offline distillation: cached teacher embeddings -> soft assignments to prototypes -> KL (papers.md)."""

    teacher: str = "dinov2_vits14"  # an id, ID@FILE, a run, or "train": the student this recipe just trained
    init: Literal["random", "train"] = "train"  # the student starts from this recipe's train stage, if there is one
    cache: str = "cache"  # directory that keeps teacher targets, shared between runs
    loss: Literal["kl"] = "kl"
    prototypes: Annotated[int, Field(ge=2)] = 1024  # spherical k-means of the cached embeddings; no label is read
    teacher_temp: Positive | None = None  # None: the one that gives the targets the entropy `teacher_entropy` x ln K
    teacher_entropy: Annotated[float, Field(gt=0, lt=1)] = 0.5
    student_temp: Positive | None = None  # None: the teacher's
    temperature: Positive = 1.0  # Hinton's T: softens both further, the loss is T^2 KL
    views: ViewConfig = Field(default_factory=lambda: ViewConfig(count=1, scale=(0.5, 1.0)))
    cache_batch_size: Annotated[int, Field(ge=1)] = 64
    epochs: Annotated[float, Field(gt=0)] = 50
    optim: OptimConfig = OptimConfig(name="adamw", lr=1e-3, warmup_epochs=1, weight_decay_end=0.04)


class ExportConfig(Strict):
    targets: list[Target] = ["onnx", "executorch", "coreml", "tflite"]
    schemes: list[Scheme] = ["none", "w8a8"]
    calibration: str | None = None  # SRC; None: the training split of `data`
    calibration_images: Annotated[int, Field(ge=8)] = 256
    parity_images: Annotated[int, Field(ge=8)] = 256
    max_knn_drop: Annotated[float, Field(ge=0, le=100)] = 1.0  # points of top-1 a quantized file may lose
    knn_images: Annotated[int, Field(ge=0)] = 2000  # labelled test images that this is measured on; 0: not measured
    deployment_target: Literal["iOS16", "iOS17", "iOS18"] = "iOS17"  # Core ML


class KnnConfig(Strict):
    protocol: Literal["standard", "lowdino-legacy"] = "standard"
    k: Annotated[int, Field(ge=1)] = 20
    temperature: Positive = 0.07


class EvalConfig(Strict):
    knn: list[KnnConfig] = [KnnConfig()]
    baselines: bool = True  # raw pixels and the untrained backbone, beside the student


class BenchmarkConfig(Strict):
    devices: list[str] = ["host"]
    threads: Annotated[int, Field(ge=1)] = 1
    runs: Annotated[int, Field(ge=5)] = 100
    warmup: Annotated[int, Field(ge=0)] = 10
    knn: bool = True
    knn_bank: Annotated[int, Field(ge=2)] | None = 10000  # images of the bank; None: the whole training split
    knn_queries: Annotated[int, Field(ge=1)] | None = None
    timeout: Positive = 600.0  # seconds a device may say nothing
    ssh_options: list[Text] = []  # given to ssh as they are: [-p, 2222]
    remote_python: str = "python3"  # the interpreter on the board, with numpy and a runtime
    litert_binary: str | None = None  # LiteRT's benchmark_model for Android, where the phone has no Python
    browser_binary: str | None = None  # None: chromium or chrome, wherever it is


class Recipe(Strict):
    """The whole chain. A stage that is null is left out."""

    name: str = "run"
    seed: Annotated[int, Field(ge=0, lt=2**63)] = 0
    device: str = "auto"
    data: DataConfig = DataConfig()
    student: StudentConfig = StudentConfig()
    train: TrainConfig | None = None
    distill: DistillConfig | None = None
    export: ExportConfig | None = None
    eval: EvalConfig = EvalConfig()
    benchmark: BenchmarkConfig | None = None


def load_recipe(
    path: str | Path | None,
    overrides: Sequence[str] = (),
    base: Mapping[str, Any] | None = None,
    flags: Mapping[str, Any] | None = None,
) -> Recipe:
    """Reads a recipe file, applies `--set a.b=value` overrides in order, then flags; checks everything.

    Args:
        path: YAML file, or None for the defaults.
        overrides: `key.path=value` strings; the value is read as YAML.
        base: keys that lie under the file (a command's own defaults).
        flags: keys that lie over everything; a key whose value is None is left out.

    Raises:
        UserError: no such file, not a mapping, an unknown key (its path and the allowed keys), a bad value.
    """
    tree: dict[str, Any] = {}
    _merge(tree, dict(base or {}))
    if path is not None:
        _merge(tree, _read_yaml(Path(path)))
    for item in overrides:
        _merge(tree, _override(item))
    for key, value in (flags or {}).items():
        if value is not None:
            _merge(tree, _nested(key, value))
    return parse_recipe(tree)


def parse_recipe(tree: Mapping[str, Any]) -> Recipe:
    """Checks a plain mapping. Raises `UserError` with the key's path."""
    try:
        return Recipe.model_validate(dict(tree))
    except ValidationError as e:
        raise _explain(e) from None


def dump_recipe(recipe: Recipe) -> str:
    """The fully resolved recipe as YAML; `load_recipe` reads it back to an equal recipe."""
    return yaml.safe_dump(recipe.model_dump(mode="json", by_alias=True), sort_keys=False)


def _read_yaml(path: Path) -> dict[str, Any]:
    if not path.is_file():
        raise UserError(f"no recipe at '{path}'", "name a YAML file, for example recipes/quickstart.yaml")
    try:
        tree = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError) as e:
        raise UserError(f"'{path}' is not YAML: {e}", "mend the file at the line named") from None
    if tree is None:
        return {}
    if not isinstance(tree, dict):
        raise UserError(f"'{path}' holds a {type(tree).__name__}", "a recipe is a mapping of sections, such as train:")
    return tree


def _override(item: str) -> dict[str, Any]:
    key, sep, raw = item.partition("=")
    parts = key.strip().split(".")
    if not sep or not all(parts):
        raise UserError(f"cannot read --set '{item}'", "write --set section.key=value, such as --set train.epochs=5")
    try:
        value: Any = yaml.safe_load(raw)
    except yaml.YAMLError as e:
        raise UserError(f"cannot read the value of --set '{item}': {e}", "quote the value as YAML wants it") from None
    if isinstance(value, str) and re.fullmatch(r"[-+]?\d+(\.\d*)?e[-+]?\d+", value):
        value = float(value)  # YAML 1.1 reads 1e-3 as a string
    return _nested(key.strip(), value)


def _nested(key: str, value: Any) -> dict[str, Any]:
    """`a.b` and 1 become `{"a": {"b": 1}}`."""
    for part in reversed(key.split(".")):
        value = {part: value}
    return typing.cast(dict[str, Any], value)


def _merge(into: dict[str, Any], other: Mapping[str, Any]) -> None:
    for k, v in other.items():
        if isinstance(v, Mapping) and isinstance(into.get(k), dict):
            _merge(into[k], v)
        else:
            into[k] = dict(v) if isinstance(v, Mapping) else v


def _explain(e: ValidationError) -> UserError:
    first = e.errors()[0]
    loc = [str(p) for p in first["loc"]]
    path = ".".join(loc)
    if first["type"] == "extra_forbidden":
        allowed = _allowed_keys(loc[:-1])
        where = ".".join(loc[:-1]) or "the recipe"
        return UserError(
            f"unknown key '{path}' in the recipe",
            f"{nearest(loc[-1], allowed)} Allowed in {where}: {', '.join(allowed)}",
        )
    given = first.get("input")
    return UserError(f"bad value for '{path}': {given!r}", first["msg"])


def _allowed_keys(loc: Sequence[str]) -> list[str]:
    model: type[BaseModel] = Recipe
    for part in loc:
        fields = {f.alias or n: f for n, f in model.model_fields.items()}
        if part.isdigit() or part not in fields:
            continue
        inner = _models_in(fields[part].annotation)
        if inner:
            model = inner[0]
    return [f.alias or n for n, f in model.model_fields.items()]


def _models_in(annotation: Any) -> list[type[BaseModel]]:
    if isinstance(annotation, type) and not isinstance(annotation, types.GenericAlias):
        return [annotation] if issubclass(annotation, BaseModel) else []
    return [m for a in typing.get_args(annotation) for m in _models_in(a)]

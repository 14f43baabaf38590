"""Every option of every recipe, checked once and torch-free. `load_recipe` is the only way in.

Precedence: flag > --set > recipe file > the defaults below (LowDINO's Table 2 where the paper gives a figure).
"""

from __future__ import annotations

import types
import typing
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from pydantic import BaseModel, BeforeValidator, Field, ValidationError, model_validator

from lowdino_edge.curate_settings import CurateConfig
from lowdino_edge.errors import UserError, nearest, shortened
from lowdino_edge.eval_settings import EvalConfig
from lowdino_edge.eval_settings import KnnConfig as KnnConfig
from lowdino_edge.paper_settings import PaperConfig
from lowdino_edge.settings import (
    ByolConfig,
    DinoConfig,
    DinoV2Config,
    LocalAggregationConfig,
    LoopConfig,
    OptimConfig,
    Positive,
    SimclrConfig,
    Strict,
    SupervisedConfig,
    ViewConfig,
    ViewsConfig,
    defaults_of,
)  # fmt: skip
from lowdino_edge.trees import merge, nested, override, read_recipe

# YAML reads 2222 as a number
Text = Annotated[str, BeforeValidator(lambda v: str(v) if isinstance(v, int | float) else v)]
Scheme = Literal["none", "fp16", "w8", "dynamic", "p6", "p4", "w8a8"]
Target = Literal["onnx", "executorch", "coreml", "tflite", "executorch-coreml", "executorch-vulkan", "coreai"]
Wanted = Literal[Target, "all", "installed"]  # all: that are proven here; installed: those whose packages are here


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


class TrainConfig(LoopConfig):
    method: str = "dino"
    views: ViewsConfig = Field(default_factory=ViewsConfig)
    dino: DinoConfig = DinoConfig()
    dinov2: DinoV2Config = DinoV2Config()
    byol: ByolConfig = ByolConfig()
    simclr: SimclrConfig = SimclrConfig()
    local_aggregation: LocalAggregationConfig = LocalAggregationConfig()
    supervised: SupervisedConfig = SupervisedConfig()


# colours as they are: the teacher saw them so (docs/losses.md)
_DISTILLED = ViewConfig(count=1, scale=(0.5, 1.0), jitter=0.0, grey=0.0, blur=0.0)
# docs/losses.md compared rates too
_ADAMW = OptimConfig(name="adamw", lr=2e-3, warmup_epochs=1, weight_decay_end=0.04)
LossId = Literal["kl", "kl_anchors", "kl_labels", "simkd", "cosine", "mse", "patch", "relational"]


def _weighed(value: Any) -> Any:
    """`kl` and `kl=1,cosine=0.5`, as they are written on a command line."""
    if not isinstance(value, str):
        return value
    parts = (item.partition("=") for item in value.split(","))
    return {id.strip(): weight.strip() or 1.0 for id, _, weight in parts}


def _shares(value: Any) -> Any:
    """`2:1`, as it is written on a command line."""
    return value.split(":") if isinstance(value, str) else value


class DistillConfig(LoopConfig):
    """Offline distillation: a frozen teacher's embeddings, cached, and what the student is compared with them by."""

    # ids, ID@FILE, runs, or "train": the student this recipe just trained
    teacher: str | Annotated[list[str], Field(min_length=1)] = "dinov2_vits14"
    # of several teachers, a list or a:b; None: all alike
    teacher_weights: Annotated[list[Positive] | None, BeforeValidator(_shares)] = None
    init: Literal["random", "train"] = "train"  # the student starts from this recipe's train stage, if there is one
    cache: str = "cache"  # directory that keeps teacher targets, shared between runs; none: the teacher is asked live
    losses: Annotated[dict[LossId, Positive], Field(min_length=1), BeforeValidator(_weighed)] = {"kl": 1.0}
    alpha: Annotated[float, Field(ge=0, le=1)] = 1.0  # alpha x losses + (1 - alpha) x cross-entropy to labels
    prototypes: Annotated[int, Field(ge=2)] = 1024  # kl: spherical k-means of the cached embeddings; no label is read
    anchors: Annotated[int, Field(ge=2)] = 4096  # kl_anchors: images whose similarities are compared
    teacher_temp: Positive | None = None  # None: the one that gives the targets the entropy `teacher_entropy` x ln K
    teacher_entropy: Annotated[float, Field(gt=0, lt=1)] = 0.5
    student_temp: Positive | None = None  # None: the teacher's
    temperature: Positive = 1.0  # Hinton's T: softens both further, the loss is T^2 KL
    views: Annotated[ViewConfig, defaults_of(_DISTILLED)] = _DISTILLED
    recorded_views: Annotated[int, Field(ge=0)] = 0  # an image, shown to teacher and student alike; 0: clean image
    align: bool = (
        False  # the student's own output lies in the teacher's space: an index of the teacher's can be searched
    )
    # of the teacher's last map, in 8 bits; loss patch needs them, and takes pca64 where nothing is said
    patches: Literal["none", "int8", "pca64"] = "none"
    qat: Literal["none", "w8a8"] = "none"  # the last epochs compute with weights and activations rounded to 8 bits
    qat_epochs: Positive = 5
    cache_batch_size: Annotated[int, Field(ge=1)] = 64
    epochs: Annotated[float, Field(gt=0)] = 50
    optim: Annotated[OptimConfig, defaults_of(_ADAMW)] = _ADAMW

    @property
    def teachers(self) -> list[str]:
        return [self.teacher] if isinstance(self.teacher, str) else self.teacher

    @property
    def shares(self) -> list[float]:
        """The weight of each teacher; together 1."""
        weights = self.teacher_weights or [1.0] * len(self.teachers)
        return [w / sum(weights) for w in weights]

    @model_validator(mode="before")
    @classmethod
    def _filled_in(cls, given: Any) -> Any:
        """Directions alone leave lengths open, so the default losses of an aligned student say both."""
        if isinstance(given, dict) and given.get("align") and "losses" not in given:
            given = {**given, "losses": {"kl": 1.0, "mse": 1.0}}
        losses = given.get("losses") if isinstance(given, dict) else None
        if isinstance(losses, dict | str) and "patches" not in given and "patch" in losses:
            given = {**given, "patches": "pca64"}
        return given

    @model_validator(mode="after")
    def _a_weight_each(self) -> DistillConfig:
        if self.qat != "none" and self.qat_epochs > self.epochs:
            raise ValueError(f"qat_epochs {self.qat_epochs:g} of {self.epochs:g} epochs")
        if self.align and len(self.teachers) > 1:
            raise ValueError("align: a student can lie in the space of one teacher only")
        if self.align and "mse" not in self.losses:
            raise ValueError("align: directions alone leave lengths open; weigh mse too, as losses=kl=1,mse=1")
        if self.teacher_weights and len(self.teacher_weights) != len(self.teachers):
            raise ValueError(f"{len(self.teacher_weights)} teacher_weights for {len(self.teachers)} teachers")
        return self


class ExportConfig(Strict):
    targets: list[Wanted] = ["onnx", "executorch", "coreml", "tflite"]
    schemes: list[Scheme] = ["none", "w8a8"]
    calibration: str | None = None  # SRC; None: the training split of `data`
    calibration_images: Annotated[int, Field(ge=8)] = 256
    parity_images: Annotated[int, Field(ge=8)] = 256
    max_knn_drop: Annotated[float, Field(ge=0, le=100)] = 1.0  # points of top-1 a quantized file may lose
    knn_images: Annotated[int, Field(ge=0)] = 2000  # labelled test images that this is measured on; 0: not measured
    deployment_target: Literal["iOS16", "iOS17", "iOS18"] = "iOS17"  # Core ML


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
    """The whole chain. A stage that is null is left out; where nothing is trained, `model` is evaluated, or the student
    as it is."""

    name: str = "run"
    seed: Annotated[int, Field(ge=0, lt=2**63)] = 0
    device: str = "auto"
    data: DataConfig = DataConfig()
    student: StudentConfig = StudentConfig()
    model: str | None = None  # MODEL that is only evaluated; row:NAME is the run beside this one
    train: TrainConfig | None = None
    distill: DistillConfig | None = None
    export: ExportConfig | None = None
    eval: EvalConfig = EvalConfig()
    benchmark: BenchmarkConfig | None = None
    curate: CurateConfig | None = None  # what `lowdino curate` does with `data`; no stage of a chain
    paper: PaperConfig | None = None


def load_recipe(
    path: str | Path | None,
    overrides: Sequence[str] = (),
    base: Mapping[str, Any] | None = None,
    flags: Mapping[str, Any] | None = None,
) -> Recipe:
    """Reads a recipe file, applies `--set a.b=value` overrides in order, then flags; checks everything.

    Args:
        path: YAML file, which may name another one it builds on with `base:`, or None for the defaults.
        overrides: `key.path=value` strings; the value is read as YAML.
        base: keys that lie under the file (a command's own defaults).
        flags: keys that lie over everything; a key whose value is None is left out.

    Raises:
        UserError: no such file, not a mapping, an unknown key (its path and the allowed keys), a bad value.
    """
    tree: dict[str, Any] = {}
    merge(tree, dict(base or {}))
    if path is not None:
        merge(tree, read_recipe(Path(path)))
    for item in overrides:
        merge(tree, override(item))
    for key, value in (flags or {}).items():
        if value is not None:
            merge(tree, nested(key, value))
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
    return UserError(f"bad value for '{path}': {shortened(repr(given))}", first["msg"])


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

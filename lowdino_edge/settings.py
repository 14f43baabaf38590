"""The sections of a recipe that say how networks learn: views, optimiser, loop, and what each method has of its own.

`config` puts them together; defaults are LowDINO's Table 2 where the paper gives a figure.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, model_validator

Probability = Annotated[float, Field(ge=0, le=1)]
Positive = Annotated[float, Field(gt=0)]
Fractions = tuple[Annotated[float, Field(gt=0, le=1)], Annotated[float, Field(gt=0, le=1)]]


class Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", validate_default=True)


def defaults_of(default: BaseModel) -> BeforeValidator:
    """What a mapping does not say of a section stays as this default has it, not as the section's class has."""
    return BeforeValidator(lambda v: {**default.model_dump(), **v} if isinstance(v, Mapping) else v)


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


_GLOBAL = ViewConfig(solarise=0.2)
_LOCAL = ViewConfig(count=2, scale=(0.05, 0.4), blur=0.5)


class ViewsConfig(Strict):
    """Multi-crop: `global` views go to teacher and student, `local` ones to the student only."""

    model_config = ConfigDict(extra="forbid", populate_by_name=True, validate_default=True)
    global_: Annotated[ViewConfig, defaults_of(_GLOBAL)] = Field(default=_GLOBAL, alias="global")
    local: Annotated[ViewConfig, defaults_of(_LOCAL)] = _LOCAL


class OptimConfig(Strict):
    name: Literal["adamw", "adam", "sgd"] = "sgd"
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


class ByolConfig(Strict):
    hidden_dim: Annotated[int, Field(ge=8)] = 512
    out_dim: Annotated[int, Field(ge=8)] = 128
    momentum: Annotated[float, Field(ge=0, le=1)] = 0.99  # of the target; rises to 1 on a cosine


class DinoV2Config(Strict):
    """What DINOv2 adds to `dino`, whose heads, temperatures and momentum it shares; centring is Sinkhorn-Knopp's."""

    patch_weight: Annotated[float, Field(ge=0)] = 1.0  # of iBOT's loss
    koleo_weight: Annotated[float, Field(ge=0)] = 0.1
    mask_probability: Annotated[float, Field(gt=0, le=1)] = 0.5  # images with hidden cells
    mask_share: Fractions = (0.1, 0.5)  # cells that are hidden in these
    high_res_epochs: Annotated[int, Field(ge=0)] = 0  # the last of all, with larger global views
    high_res_size: Annotated[int, Field(ge=8, le=1024)] | None = None  # pixels; None: the student's image size


class LocalAggregationConfig(Strict):
    hidden_dim: Annotated[int, Field(ge=8)] = 512
    out_dim: Annotated[int, Field(ge=8)] = 128
    temperature: Positive = 0.07
    background: Annotated[int, Field(ge=2)] = 4096  # nearest neighbours in the bank
    clusterings: Annotated[int, Field(ge=1)] = 3
    clusters: Annotated[int, Field(ge=2)] = 30000  # of each; fewer where a cluster would have under rows_a_cluster
    rows_a_cluster: Annotated[int, Field(ge=1)] = 10
    bank_momentum: Annotated[float, Field(ge=0, lt=1)] = 0.5
    warmup_epochs: Annotated[float, Field(ge=0)] = 10


class SupervisedConfig(Strict):
    label_smoothing: Annotated[float, Field(ge=0, lt=1)] = 0.1


class LoopConfig(Strict):
    """What train and distill share."""

    epochs: Annotated[float, Field(gt=0)] = 100
    batch_size: Annotated[int, Field(ge=2)] = 64  # global
    precision: Literal["auto", "fp32", "bf16"] = "auto"  # auto: bf16 on CUDA, fp32 elsewhere
    optim: OptimConfig = OptimConfig()
    knn_every: Annotated[float, Field(ge=0)] = 10  # epochs; 0: only at the end
    knn_limit: Annotated[int, Field(ge=1)] | None = 10000  # images of the bank used during training
    checkpoint_every: Annotated[int, Field(ge=1)] = 500  # steps
    accumulate: Annotated[int, Field(ge=1)] = 1  # passes that a batch is taken in, for memory; BatchNorm sees a pass
    compile: bool = False  # torch.compile of the student
    on_collapse: Literal["warn", "stop"] = "warn"
    logs: list[Literal["csv", "tensorboard"]] = ["csv"]  # beside metrics.jsonl

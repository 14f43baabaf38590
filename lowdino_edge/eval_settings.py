"""The `eval` section of a recipe: one class for each evaluation that has settings."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, model_validator

from lowdino_edge.settings import OptimConfig, Positive, Strict, ViewConfig, defaults_of

Seed = Annotated[int, Field(ge=0)]
Fraction = Annotated[float, Field(gt=0, le=1)]
Share = Annotated[float, Field(gt=0, lt=1)]


def _listed(value: Any) -> Any:
    """`full`, as it is written on a command line."""
    return [value] if isinstance(value, str) else value


class KnnConfig(Strict):
    protocol: Literal["standard", "lowdino-legacy"] = "standard"
    k: Annotated[int, Field(ge=1)] = 20
    temperature: Positive = 0.07


class LinearConfig(Strict):
    """Logistic regression on frozen embeddings."""

    fractions: Annotated[list[Fraction], Field(min_length=1)] = [0.01, 0.1, 0.3, 1.0]  # of the labels
    seeds: Annotated[list[Seed], Field(min_length=1)] = [0, 1, 2]
    C: Annotated[list[Positive], Field(min_length=1)] = [1e-5, 1e-4, 1e-3, 1e-2, 1e-1, 1.0, 10.0]  # ascending
    held_out: Share = 0.2  # of the labelled part, to choose C by


class MlpConfig(Strict):
    """LowDINO's few-label probe: two layers on frozen embeddings."""

    fractions: Annotated[list[Fraction], Field(min_length=1)] = [0.1, 0.3]
    seeds: Annotated[list[Seed], Field(min_length=1)] = [0, 1, 2]
    hidden_dim: Annotated[int, Field(ge=1)] = 256
    lr: Positive = 1e-3
    epochs: Annotated[int, Field(ge=1)] = 200  # at most
    patience: Annotated[int, Field(ge=1)] = 10  # epochs without a lower loss on the held-out share
    held_out: Share = 0.2  # of the labelled part, for early stopping


# whole objects stay in sight, colours vary
_AUGMENTED = ViewConfig(count=1, scale=(0.4, 1.0), grey=0.0, blur=0.0)
_ADAMW = OptimConfig(name="adamw", lr=1e-3, warmup_epochs=1, weight_decay=0.05, weight_decay_end=0.05)
Backbone = Literal["frozen", "full"]


class FinetuneConfig(Strict):
    """A linear classifier on the backbone, trained on labels; `full` trains the backbone with it."""

    backbone: Annotated[list[Backbone], Field(min_length=1), BeforeValidator(_listed)] = ["frozen", "full"]
    scratch: bool | None = None  # the same network from random weights, beside them; None: where there is `full`
    fractions: Annotated[list[Fraction], Field(min_length=1)] = [0.2]  # of the labels
    seeds: Annotated[list[Seed], Field(min_length=1)] = [0]  # of the labelled part, the classifier and the order
    held_out: Share = 0.1  # of the labelled part, for early stopping
    epochs: Annotated[int, Field(ge=1)] = 30
    patience: Annotated[int, Field(ge=1)] | None = 5  # epochs without a better one; None: all are run, the best is kept
    batch_size: Annotated[int, Field(ge=2)] = 64
    accumulate: Annotated[int, Field(ge=1)] = 1  # passes that a batch is taken in
    precision: Literal["auto", "fp32", "bf16"] = "auto"  # as for `train`
    optim: Annotated[OptimConfig, defaults_of(_ADAMW)] = _ADAMW
    label_smoothing: Annotated[float, Field(ge=0, lt=1)] = 0.0
    augment: bool | None = None  # random views; None: where the backbone learns (a frozen one then embeds only once)
    views: Annotated[ViewConfig, defaults_of(_AUGMENTED)] = _AUGMENTED

    @property
    def from_scratch(self) -> bool:
        return "full" in self.backbone if self.scratch is None else self.scratch

    @model_validator(mode="after")
    def _one_view_as_it_is_measured(self) -> FinetuneConfig:
        if self.views.size is not None or self.views.count != 1:
            raise ValueError("views: one view of each image, at the network's own size (leave count and size out)")
        return self


class ClustersConfig(Strict):
    """k-means of the training split's embeddings."""

    k: Annotated[int, Field(ge=2)] | None = None  # None: as many as there are classes
    seed: Seed = 0


class RobustnessConfig(Strict):
    """Queries made worse; the bank stays as it is."""

    queries: Annotated[int, Field(ge=1)] | None = 2000  # of the test split; None: all
    seed: Seed = 0


class AttentionConfig(Strict):
    """Masks of what a network looks at. `masses` are tried on other sequences than the one that is scored."""

    # auto: a ViT's attention, else how unlike the border a cell is
    map: Literal["auto", "attention", "component", "contrast"] = "auto"
    # the image's shorter side over the network's own, or over --image-size; several: the mean of their maps
    scales: Annotated[list[Positive], Field(min_length=1)] = [1.5, 2.0, 3.0]
    # of the map, that its mask holds
    masses: Annotated[list[Fraction], Field(min_length=1)] = [0.15, 0.2, 0.25, 0.3, 0.35, 0.4, 0.5, 0.6, 0.7, 0.8]
    blobs: Annotated[float, Field(ge=0, lt=1)] = 0.05  # of the mask: smaller connected parts of it are removed


class DenseConfig(Strict):
    """Logistic regression on the cells of the last map."""

    scale: Positive = 2.0  # the image's shorter side over the network's own, or over --image-size
    cells: Annotated[int, Field(ge=100)] = 20_000  # of the images to fit on, drawn by hash, all images alike
    C: Annotated[list[Positive], Field(min_length=1)] = [1e-4, 1e-3, 1e-2, 1e-1]  # ascending
    held_out: Share = 0.3  # of the sequences to fit on, to choose C by


class DepthConfig(Strict):
    """Ridge regression of the logarithm of depth on the cells of the last map."""

    scale: Positive = 2.0  # as in `dense`
    cells: Annotated[int, Field(ge=100)] = 20_000
    ridge: Annotated[list[Positive], Field(min_length=1)] = [1.0, 100.0, 10_000.0]  # strengths, ascending
    held_out: Share = 0.3  # of the sequences to fit on, to choose the strength by
    png_unit: Positive = 0.001  # metres of one step of a 16-bit PNG


class EvalConfig(Strict):
    tasks: list[str] = []  # of `lowdino list tasks`, that `lowdino run` measures on what ships
    data: str | None = None  # SRC that they are measured on; None: `data.source`
    image_size: Annotated[int, Field(ge=8, le=1024)] | None = None  # pixels that they see; None: `student.image_size`
    knn: list[KnnConfig] = [KnnConfig()]
    knn_pictures: bool = True  # of knn and of retrieval
    baselines: bool = True  # raw pixels and the untrained backbone, beside the student
    linear: LinearConfig = LinearConfig()
    mlp: MlpConfig = MlpConfig()
    finetune: FinetuneConfig = FinetuneConfig()
    clusters: ClustersConfig = ClustersConfig()
    robustness: RobustnessConfig = RobustnessConfig()
    attention: AttentionConfig = AttentionConfig()
    dense: DenseConfig = DenseConfig()
    depth: DepthConfig = DepthConfig()

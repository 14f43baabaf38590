"""The `curate` section of a recipe: what counts as a duplicate, and what is looked for."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field, model_validator

from lowdino_edge.settings import Strict, defaults_of

Share = Annotated[float, Field(ge=0, le=1)]
Count = Annotated[int, Field(ge=1)]


class Thresholds(Strict):
    """When two aligned images are one picture; `curate/confirm.py` says what each figure is, docs/curate.md why so."""

    tone: Share = 0.93
    detail: Share = 0.9
    worst: Annotated[float, Field(ge=0, le=2)] = 0.15
    colour: Share = 0.3
    scale: Annotated[float, Field(gt=0.7, le=1)] = 0.8  # of a side: how much of it a crop may keep at least
    stretch: Annotated[float, Field(ge=1, le=2)] = 1.15  # of one axis over the other


# a compression that is not seen on a photograph is half of what there is of an image of 32 px
_SMALL = Thresholds(tone=0.95, detail=0.75, worst=0.35, colour=0.3)


class CurateConfig(Strict):
    encoder: str | None = None  # MODEL; embeddings for duplicates that hashes miss, and for retrieval
    cache: str = "cache"  # directory of teacher caches: where one of this encoder and these images is, no image is read
    against: list[str] = Field(default_factory=list)  # SRC of evaluation sets, beside the test split of the data
    seed_data: str | None = None  # SRC of images whose like are wanted
    per_query: Count | None = None  # nearest images of each seed
    clusters: Count | None = None  # k-means clusters of the pool
    per_cluster: Count | None = None  # images drawn from the cluster of each seed; without seeds from every cluster
    total: Count | None = None  # at most so many images
    hash_distance: Annotated[int, Field(ge=0, le=128)] = 90  # of 255 bits: pairs up to it are looked at
    similarity: Share = 0.7  # cosine: pairs from it on are looked at
    same: Thresholds = Thresholds()
    same_small: Annotated[Thresholds, defaults_of(_SMALL)] = _SMALL  # where the smaller image has at most 48 px

    @model_validator(mode="after")
    def _goes_together(self) -> CurateConfig:
        if (self.clusters is None) != (self.per_cluster is None):
            raise ValueError("clusters and per_cluster go together")
        if self.per_query and self.clusters:
            raise ValueError("either per_query or clusters and per_cluster")
        if self.per_query and self.seed_data is None:
            raise ValueError("per_query wants seed_data")
        if (self.seed_data or self.clusters) and self.encoder is None:
            raise ValueError("seed_data and clusters want an encoder")
        return self

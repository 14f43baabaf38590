"""`lowdino curate`: duplicates out, look-alikes of a seed set in, as a list and a report. The source stays as it is.

OUT/recipe.yaml               first; --resume compares it
OUT/work/<set>/               what a pass over each set found, in parts; removed at the end
OUT/removed.csv found.csv curated.csv sheets/ report.json report.html DONE
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from lowdino_edge import console
from lowdino_edge.config import Recipe, dump_recipe
from lowdino_edge.curate import candidates, groups, judging, outcome, retrieve, scan
from lowdino_edge.curate.gallery import Gallery
from lowdino_edge.curate.index import engine
from lowdino_edge.curate.known import FromCache, Known
from lowdino_edge.curate.phash import FREQUENCIES, WINDOWS
from lowdino_edge.curate_settings import CurateConfig
from lowdino_edge.data.datasets import ImageSet, open_set
from lowdino_edge.errors import UserError
from lowdino_edge.memory import keep_freed_memory
from lowdino_edge.resolve import resolve, weights
from lowdino_edge.run import Run, holds_something, read_json, write_text
from lowdino_edge.workspace import DATA_SEED, Workspace, check_same

if TYPE_CHECKING:
    from lowdino_edge.distill.cache import TargetCache
    from lowdino_edge.runtimes.eager import EagerEncoder
    from lowdino_edge.types import Encoder

_MEASURED = 256  # images that a dry run looks at


@dataclass
class Job:
    """The sets and the encoder of one curation, opened once."""

    recipe: Recipe
    workers: int = 2
    work: Workspace = field(init=False)

    def __post_init__(self) -> None:
        self.work = Workspace(self.recipe)
        self.workers = max(1, self.recipe.data.workers)

    @property
    def cfg(self) -> CurateConfig:
        return self.recipe.curate or CurateConfig()

    @cached_property
    def pool(self) -> ImageSet:
        return self.work.images("train")

    @cached_property
    def test(self) -> ImageSet | None:
        """The test split of the data itself; None where it is made of the same images."""
        images = self.work.images("test")
        return None if set(images.ids) & set(self.pool.ids) else images

    @cached_property
    def evaluations(self) -> list[ImageSet]:
        named = [s for source in self.cfg.against for s in self._evaluation(source)]
        return [*([self.test] if self.test is not None else []), *named]

    @cached_property
    def seeds(self) -> ImageSet | None:
        return None if self.cfg.seed_data is None else _all_of(self.cfg.seed_data, self.recipe.data.download)

    def _evaluation(self, source: str) -> list[ImageSet]:
        """What is evaluated on there: a test split where the source has one, else all of it."""
        both = [_open(source, split, self.recipe.data.download) for split in ("train", "test")]
        if set(both[0].ids) & set(both[1].ids):
            return both[:1]
        return both if both[1].drawn else both[1:]

    @cached_property
    def encoder(self) -> Encoder | None:
        if self.cfg.encoder is None:
            return None
        if self.work.device == "cpu":
            keep_freed_memory()
        size = self.recipe.student.image_size
        model = resolve(self.cfg.encoder)
        return model.encoder(self.work.device, image_size=size, download=self.recipe.data.download)

    @cached_property
    def about_encoder(self) -> str:
        if self.cfg.encoder is None:
            return ""
        module = getattr(self.encoder, "module", None)
        known = getattr(module, "fingerprint", None) or weights(resolve(self.cfg.encoder))
        return f"{self.cfg.encoder} {known} {self.encoder.preprocess.to_dict() if self.encoder else ''}"

    @cached_property
    def cache(self) -> TargetCache | None:
        """What the encoder, a teacher, has said about the pool already; None where there is no such cache."""
        from lowdino_edge.distill.cache import TargetCache
        from lowdino_edge.distill.layout import Plan

        if self.cfg.encoder is None or self.cfg.cache == "none" or resolve(self.cfg.encoder).kind != "teacher":
            return None
        encoder: EagerEncoder = self.encoder  # type: ignore[assignment]
        plan = Plan.of(encoder.module, self.pool)
        path = Path(self.cfg.cache) / plan.directory
        return TargetCache.open(path, plan) if (path / "manifest.json").is_file() else None


def curate(recipe: Recipe, out: Path, *, resume: bool = False, dry_run: bool = False) -> dict[str, Any]:
    """Writes the lists and the report of `recipe.curate` over `recipe.data` to `out`; returns report.json.

    Raises:
        UserError: a directory that holds something else, sources without images, FAISS missing where it is needed.
    """
    job = Job(recipe)
    if not dry_run and resume and Run(out).done.is_file():
        check_same(recipe, Run(out))
        scan.forget(out / "work")  # where a kill came before that
        console.say(f"'{out}' is done already")
        return read_json(out / "report.json")
    sets = [job.pool, *job.evaluations]  # no images, no directory
    if dry_run:
        return _estimate(job, sets)
    run = Run.create(out, resume=resume)
    if run.recipe.is_file():
        check_same(recipe, run)
    elif resume and holds_something(out):
        raise UserError(f"'{out}' is no curation of lowdino", "name its directory with --out")
    write_text(run.recipe, dump_recipe(recipe))
    began = time.monotonic()
    result = _decided(job, out / "work", sets)
    result.report["out"], result.report["usable"] = str(out), result.root is not None
    result.report["seconds"] = round(time.monotonic() - began, 1)
    outcome.write(result, out, recipe.seed)
    run.write_env()
    run.finish()
    scan.forget(out / "work")
    return result.report


def _decided(job: Job, work: Path, sets: Sequence[ImageSet]) -> outcome.Outcome:
    known = _known(job, work, sets)
    gallery = Gallery(known, job.workers)
    removed, pairs = _removed(job, gallery)
    gone = np.zeros(gallery.pool, bool)
    gone[[r.image for r in removed]] = True
    kept = np.flatnonzero(~gone & (gallery.pixels[: gallery.pool, 0] != 0))
    if not len(kept):
        raise UserError("no image is left", "every image is broken, or in an evaluation set")
    found = _found(job, work, known[0], kept)
    curated = kept if found is None else np.sort(found.row)
    if found is None and job.cfg.total is not None and job.cfg.total < len(kept):
        rng = np.random.Generator(np.random.PCG64([job.recipe.seed, len(kept)]))
        curated = np.sort(rng.permutation(kept)[: job.cfg.total])
    of_pair = {
        (min(a, b), max(a, b)): (d, s)
        for (a, b), d, s in zip(pairs.ab.tolist(), pairs.distance.tolist(), pairs.similarity.tolist(), strict=True)
    }
    report = _report(job, gallery, removed, len(kept), found, len(curated), len(pairs))
    files = job.pool.files
    return outcome.Outcome(
        gallery,
        None if files is None else files.resolve(),
        curated,
        removed,
        of_pair,
        job.test,
        found,
        job.seeds,
        report,
    )


def _known(job: Job, work: Path, sets: Sequence[ImageSet]) -> list[Known]:
    """What the passes over the sets find; the pool's embeddings from the teacher cache where there is one."""
    cached = job.cache
    if cached is None:
        wanted = scan.Wanted(job.encoder, True, job.about_encoder)
        return [scan.scan(s, work / _name(i), wanted, job.workers) for i, s in enumerate(sets)]
    console.say(f"embeddings of the pool come from '{cached.path}': only images of likely pairs are opened")
    broken = set(cached.broken)
    sound = np.array([name not in broken for name in job.pool.ids])
    z_ND = np.zeros((len(job.pool), cached.embed_dim), np.float16)
    for rows in np.array_split(np.flatnonzero(sound), -(-len(sound) // 65536)):
        z_BD = cached.rows([job.pool.ids[i] for i in rows])
        z_ND[rows] = z_BD / np.maximum(np.linalg.norm(z_BD, axis=1, keepdims=True), 1e-9)
    wanted = scan.Wanted(job.encoder, False, job.about_encoder)
    others = [scan.scan(s, work / _name(i + 1), wanted, job.workers) for i, s in enumerate(sets[1:])]
    return [FromCache(job.pool, z_ND, sound), *others]


def _name(i: int) -> str:
    return "pool" if i == 0 else f"against-{i}"


def _removed(job: Job, gallery: Gallery) -> tuple[list[groups.Removed], candidates.Pairs]:
    """Exact copies first; then likely pairs are found, looked at, and decided on."""
    sound = gallery.pixels[:, 0] != 0
    alone, copies, parts = sound, list[groups.Removed](), []
    if job.cache is None:
        first_N = groups.exact_copies(np.concatenate([s.column("exact") for s in gallery.sets]), sound)
        alone, copies = _copies(gallery, first_N, sound)
        parts.append(candidates.by_hash(gallery, alone, job.cfg.hash_distance))
    if job.encoder is not None:
        parts.append(candidates.by_embedding(gallery, job.cfg.similarity))
    pairs = candidates.merged(parts)
    pairs = pairs.take(alone[pairs.ab].all(axis=1))
    looked = judging.glanced(gallery, pairs) if job.cache is None else pairs
    same = (job.cfg.same, job.cfg.same_small)
    verdict = judging.judged(gallery, looked, same)

    def ask(wanted: Sequence[groups.Edge]) -> tuple[Any, Any]:
        found = judging.judged(gallery, candidates.Pairs.of(np.asarray(wanted, np.int64)), same, quiet=True)
        return found.twins, found.figures

    twins = groups.Twins(ask)
    twins.learn(looked.ab, verdict.twins, verdict.figures)
    near = groups.decide(twins, gallery.pool, gallery.worth)
    return _following(copies, near), pairs


def _copies(gallery: Gallery, first_N: Any, sound: Any) -> tuple[Any, list[groups.Removed]]:
    """Which images take part in what follows, and the exact copies among the pool's that go at once. A copy of an
    evaluation image goes as a leak."""
    pool, own = gallery.pool, np.arange(len(first_N))
    in_evaluation = {int(first_N[g]): int(g) for g in range(len(first_N) - 1, pool - 1, -1) if sound[g]}
    removed = []
    for g in np.flatnonzero(sound[:pool]).tolist():
        first = int(first_N[g])
        if first in in_evaluation:
            removed.append(groups.Removed(g, in_evaluation[first], "leak", None))
        elif first != g:
            removed.append(groups.Removed(g, first, "copy", None))
    alone = sound & ((first_N == own) | (own >= pool))
    return alone, removed


def _following(copies: list[groups.Removed], near: list[groups.Removed]) -> list[groups.Removed]:
    """A copy of an image that went itself is told by what stays in the end."""
    gone = {r.image: r for r in near}
    already = {r.image for r in copies}
    told = [
        groups.Removed(r.image, gone[r.twin].twin, gone[r.twin].reason, gone[r.twin].figures)
        if r.reason == "copy" and r.twin in gone
        else r
        for r in copies
    ]
    return sorted([*told, *(r for r in near if r.image not in already)], key=lambda r: r.image)


def _found(job: Job, work: Path, pool: Known, kept: Any) -> retrieve.Found | None:
    cfg = job.cfg
    if cfg.seed_data is None and cfg.clusters is None:
        return None
    seed_QD = None
    if job.seeds is not None:
        known = scan.scan(job.seeds, work / "seeds", scan.Wanted(job.encoder, False, job.about_encoder), job.workers)
        seed_QD = known.column("embedding")
        if not (known.pixels[:, 0] != 0).all():
            raise UserError(f"'{cfg.seed_data}' holds broken images", "mend or remove them")
    z_ND = pool.column("embedding")[kept]
    if cfg.clusters is not None and cfg.per_cluster is not None:
        found = retrieve.per_cluster(z_ND, seed_QD, cfg.clusters, cfg.per_cluster, job.recipe.seed)
    else:
        assert seed_QD is not None
        found = retrieve.per_query(z_ND, seed_QD, cfg.per_query or 100)
    found = found.first(cfg.total)
    return retrieve.Found(kept[found.row], found.seed, found.similarity, found.cluster)


def _report(
    job: Job, gallery: Gallery, removed: Sequence[groups.Removed], kept: int, found: Any, curated: int, pairs: int
) -> dict[str, Any]:
    cfg = job.cfg
    by_reason = {reason: sum(r.reason == reason for r in removed) for reason in ("copy", "near", "leak")}
    broken = [int((s.pixels[:, 0] == 0).sum()) for s in gallery.sets]
    sets = [
        {"name": s.images.name, "images": len(s), "broken": b, "fingerprint": s.images.fingerprint}
        for s, b in zip(gallery.sets, broken, strict=True)
    ]
    searched = [] if job.cache is not None else [f"{FREQUENCIES**2 - 1}-bit hashes of {2 * len(WINDOWS)} windows"]
    searched += ["embeddings"] if job.encoder is not None else []
    return {
        "data": job.recipe.data.source,
        "counts": {
            "images": gallery.pool, "broken": broken[0], "removed": len(removed), **by_reason, "kept": kept,
            "curated": curated, "found": None if found is None else len(found), "pairs": pairs,
            "opened_again": gallery.opened,
        },
        "sets": sets,
        "protocol": {
            "candidates": " and ".join(searched),
            "search": engine(),
            "confirmed": "aligned thumbnails, figures of removed.csv",
            "stays": "the best of equal pictures (detail, clipping, order); an image that is in an evaluation set goes",
            "encoder": cfg.encoder,
            "cache": None if job.cache is None else str(job.cache.path),
            "retrieval": None if found is None else _retrieval(cfg),
            "seed": job.recipe.seed,
        },
        "thresholds": {"hash_distance": cfg.hash_distance, "similarity": cfg.similarity, "same": cfg.same.model_dump(),
            "same_small": cfg.same_small.model_dump(),
        },
    }  # fmt: skip


def _retrieval(cfg: CurateConfig) -> str:
    if cfg.clusters is not None:
        of = "the cluster of each seed" if cfg.seed_data else "every cluster"
        return f"{cfg.per_cluster} images of {of}, {cfg.clusters} clusters by spherical k-means"
    return f"the {cfg.per_query or 100} nearest images of each seed, the nearest of every seed first"


def _estimate(job: Job, sets: Sequence[ImageSet]) -> dict[str, Any]:
    """Looks at some images of the pool and tells hours and GB; writes nothing."""
    images = sum(len(s) for s in sets) - (len(job.pool) if job.cache is not None else 0)
    some = job.pool.subset(np.arange(min(_MEASURED, len(job.pool))))
    rate = scan.rate(some, scan.Wanted(job.encoder, job.cache is None, job.about_encoder), job.workers)
    width = 0 if job.encoder is None else job.encoder.embed_dim
    each = scan.BYTES * (job.cache is None) + 2 * width
    return {
        "data": job.recipe.data.source,
        "images": len(job.pool),
        "against": sum(len(s) for s in sets[1:]),
        "to_read": images,
        "cache": None if job.cache is None else str(job.cache.path),
        "images_per_second": round(rate, 1),
        "hours": round(images / rate / 3600, 4),
        "gigabytes": round(images * each / 1e9, 6),
        "search": engine(),
    }


def _open(source: str, split: Any, download: bool) -> ImageSet:
    return open_set(source, split, seed=DATA_SEED, download=download)


def _all_of(source: str, download: bool) -> ImageSet:
    """Every image of a source, both splits."""
    train, test = (_open(source, split, download) for split in ("train", "test"))
    if set(train.ids) & set(test.ids):
        return train
    from lowdino_edge.data.imageset import digest

    n = len(train)
    return ImageSet(
        name=train.name,
        ids=[*train.ids, *test.ids],
        labels=np.concatenate([train.labels, test.labels]),
        classes=train.classes,
        fingerprint=digest([train.fingerprint, test.fingerprint]),
        files=train.files,
        read=lambda i: train.read(i) if i < n else test.read(i - n),
    )

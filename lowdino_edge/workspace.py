"""The data and the device of one command, opened once and shared by the stages that need them."""

from __future__ import annotations

import os
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from lowdino_edge import console, parallel
from lowdino_edge.config import KnnConfig, Recipe, dump_recipe, load_recipe
from lowdino_edge.errors import UserError
from lowdino_edge.files import discard, remove_folder, sweep, temporary_folder
from lowdino_edge.run import Run, aside, holds_something, is_run, shows, write_text
from lowdino_edge.types import Embeddings, Encoder, Float, Preprocess

if TYPE_CHECKING:
    from lowdino_edge.data.datasets import ImageSet
    from lowdino_edge.data.pixels import Pixels
    from lowdino_edge.models.backbone import Student

Split = Literal["train", "test"]
MONITOR_QUERIES = 2000  # images that kNN is measured on while training goes on
DATA_SEED = 0  # what is for testing does not depend on a run's seed: another run may evaluate this one's student


class Workspace:
    """Lazily opened image sets and decoded pixels of a recipe; nothing is decoded twice."""

    def __init__(self, recipe: Recipe) -> None:
        self.recipe = recipe
        self.device = pick_device(recipe.device)
        self._images: dict[Split, ImageSet] = {}
        self._pixels: dict[tuple[Split, Preprocess, int | None], Pixels] = {}
        self._without: dict[tuple[Preprocess, frozenset[str]], Pixels] = {}

    def images(self, split: Split) -> ImageSet:
        from lowdino_edge.data.datasets import open_set

        if split not in self._images:
            cfg = self.recipe.data
            limit = cfg.train_limit if split == "train" else cfg.test_limit
            with parallel.one_of_a_node_first():  # it may be a download
                self._images[split] = open_set(cfg.source, split, seed=DATA_SEED, limit=limit, download=cfg.download)
        return self._images[split]

    def pixels(self, split: Split, preprocess: Preprocess, limit: int | None = None) -> Pixels:
        """The split as the network takes it, decoded once, or, if it is too large for the memory, as it is needed;
        `limit` takes a seeded sample."""
        images = self.images(split)
        if limit is not None and limit >= len(images):
            limit = None
        key = (split, preprocess, limit)
        if key not in self._pixels:
            if limit is not None:
                images = images.subset(seeded_sample(len(images), limit, self.recipe.seed))
            self._pixels[key] = _decoded(images, preprocess, self.recipe.data.workers)
        return self._pixels[key]

    def train_pixels(self, preprocess: Preprocess, without: Collection[str] = ()) -> Pixels:
        """Training images; those larger than the network are kept an eighth larger, for the random crops.

        Args:
            without: names of images that are known to be broken.
        """
        from lowdino_edge.data.pixels import is_large

        images = self.images("train")
        size = preprocess.image_size
        sides = [side for i in range(min(8, len(images))) if (side := shorter_side(images, i)) is not None]
        if min(sides, default=size) > size:
            preprocess = Preprocess(round(size * 8 / 7), 1.0, preprocess.interpolation)
        gone = frozenset(without)
        if not gone or not is_large(len(images), preprocess):  # of a small set they are found beforehand
            return self.pixels("train", preprocess)
        if (preprocess, gone) not in self._without:
            self._without[preprocess, gone] = _decoded(images, preprocess, self.recipe.data.workers, gone)
        return self._without[preprocess, gone]

    def bank(self, preprocess: Preprocess, limit: int | None = None) -> Pixels:
        return self.pixels("train", preprocess, limit)

    def queries(self, preprocess: Preprocess, limit: int | None = None) -> Pixels:
        return self.pixels("test", preprocess, limit)

    def sample(self, split: Split, preprocess: Preprocess, n: int) -> Float:
        """n seeded images of a split as float32 RGB in [0, 1], (n, 3, S, S)."""
        return self.pixels(split, preprocess, n).u8_NCHW[:n].astype(np.float32) / np.float32(255)

    def calibration_and_proof(self, preprocess: Preprocess, n_cal: int, n_proof: int) -> tuple[Float, Float]:
        """Images that int8 ranges come from, and others to prove the files on: of the training and of the test split.
        The splits of a flat folder are the same images, so these are divided; at least two are for the proof."""
        from lowdino_edge.data.pixels import load_pixels

        images = self.images("test")
        if self.images("train").ids != images.ids:
            return self.sample("train", preprocess, n_cal), self.sample("test", preprocess, n_proof)
        n_proof = min(n_proof, max(2, len(images) // 2))
        order = np.random.Generator(np.random.PCG64([self.recipe.seed, len(images)])).permutation(len(images))
        rows = np.concatenate([order[:n_proof], order[n_proof : n_proof + n_cal]])
        pixels = load_pixels(images.subset(rows), preprocess, workers=self.recipe.data.workers)
        x_NCHW = pixels.u8_NCHW.astype(np.float32) / np.float32(255)
        return x_NCHW[n_proof:], x_NCHW[:n_proof]

    def new_student(self, weights: Path | None = None) -> Student:
        """The recipe's student: from `weights`, else from the recipe's own, else random by the recipe's seed."""
        from lowdino_edge.models.backbone import build_student
        from lowdino_edge.models.student_file import load_student

        cfg = self.recipe.student
        source = weights or (Path(cfg.weights) if cfg.weights else None)
        if source is None:
            return build_student(cfg.id, cfg.image_size, seed=self.recipe.seed)
        student = load_student(source, image_size=cfg.image_size)
        if student.id != cfg.id.removeprefix("timm:"):
            raise UserError(
                f"'{source}' holds a {student.id}, the recipe wants {cfg.id}",
                f"use --student {student.id}, or other weights",
            )
        return student

    def embed(self, encoder: Encoder, split: Split, limit: int | None = None) -> Embeddings:
        from lowdino_edge.evals.embed import embed

        return embed(encoder, self.pixels(split, encoder.preprocess, limit))

    def knn(self, encoder: Encoder, cfg: KnnConfig) -> dict[str, Any]:
        """`eval --task knn`: bank = training split, queries = test split."""
        return self.knn_all(encoder, [cfg])[0]

    def knn_all(self, encoder: Encoder, protocols: Sequence[KnnConfig]) -> list[dict[str, Any]]:
        """`knn` by several protocols, the images embedded once."""
        from lowdino_edge.evals.knn import evaluate

        self.need_labels()
        bank, query = self.embed(encoder, "train"), self.embed(encoder, "test")
        return [evaluate(bank, query, cfg, encoder.preprocess.image_size, self.device) for cfg in protocols]

    def knn_result(self, run: Run, name: str, encoder: Encoder) -> None:
        """Writes the run's kNN results by every protocol of the recipe; nothing where there are no labels."""
        if not self.labelled():
            console.say("no labels: kNN not measured")
            return
        protocols = self.recipe.eval.knn
        for cfg, result in zip(protocols, self.knn_all(encoder, protocols), strict=True):
            task = "knn" if cfg.protocol == "standard" else f"knn-{cfg.protocol}"
            run.result(task, name, "host", {"model": name, **result})
            protocol = ", ".join(f"{k} {v}" for k, v in result["protocol"].items())
            console.say(
                f"kNN of {name}: {100 * result['top1']:.2f}% ({protocol}; "
                f"bank {result['n_bank']}, queries {result['n_query']})"
            )

    def monitor(self, preprocess: Preprocess, limit: int | None) -> Callable[[Student], dict[str, float]] | None:
        """The kNN that is measured while training goes on, on a bank of at most `limit` images."""
        if not self.labelled():
            return None
        cfg = KnnConfig()

        def measure(student: Student) -> dict[str, float]:
            from lowdino_edge.evals.knn import evaluate
            from lowdino_edge.runtimes.eager import EagerEncoder

            encoder = EagerEncoder(student, name="student", device=self.device)
            bank = _embed_shared(encoder, self.bank(preprocess, limit))
            query = _embed_shared(encoder, self.queries(preprocess, MONITOR_QUERIES))
            return {"knn_top1": float(evaluate(bank, query, cfg, preprocess.image_size, self.device)["top1"])}

        return measure

    def labelled(self) -> bool:
        return bool((self.images("train").labels >= 0).any() and (self.images("test").labels >= 0).any())

    def need_labels(self) -> None:
        if not self.labelled():
            raise UserError(
                f"'{self.recipe.data.source}' has no labels, kNN needs them",
                "give a folder with train/ and val/, a folder a class",
            )


def _decoded(images: ImageSet, preprocess: Preprocess, workers: int, without: Collection[str] = ()) -> Pixels:
    """Decoded once; of several processes on a node the first decodes and the others map what it wrote. A large set is
    decoded as it is needed."""
    from lowdino_edge.data.pixels import is_large, load_pixels, map_pixels

    if is_large(len(images), preprocess):
        return _decoded_lazily(images, preprocess, workers, without)
    if parallel.size() == 1:
        return load_pixels(images, preprocess, workers=workers)
    folder = _shared_folder()
    own = None
    with parallel.one_of_a_node_first():
        if parallel.local_rank() == 0:
            own = load_pixels(images, preprocess, workers=workers, folder=folder)
    made = own or map_pixels(images, preprocess, folder)
    parallel.barrier()
    if own is not None and os.name == "posix":  # mapped by everyone: gone even if all of them are killed
        remove_folder(folder)
    return made


def _shared_folder() -> Path:
    """A temporary folder that the first process of each node makes; the others of its node are told its name."""
    made = str(temporary_folder("shared")) if parallel.local_rank() == 0 else ""
    node = os.environ.get("GROUP_RANK", "0")
    return Path(next(name for where, name in parallel.collect((node, made)) if name and where == node))


def _decoded_lazily(images: ImageSet, preprocess: Preprocess, workers: int, without: Collection[str]) -> Pixels:
    """Decoded while it is used; the processes of a node share what each has decoded."""
    from lowdino_edge.data.lazy import Store
    from lowdino_edge.data.pixels import lazy_pixels

    folder, n = _shared_folder(), len(images)
    with parallel.one_of_a_node_first():
        leads = parallel.local_rank() == 0
        store = (Store.make if leads else Store)(folder, n, preprocess.image_size)
    parallel.barrier()
    if leads:
        store.remove_files()
    return lazy_pixels(images, preprocess, store, workers=workers, without=without)


def _embed_shared(encoder: Encoder, pixels: Pixels) -> Embeddings:
    """`evals.embed`, each process embedding its share."""
    from lowdino_edge.data.pixels import Pixels
    from lowdino_edge.evals.embed import embed

    if parallel.size() == 1 or len(pixels) < parallel.size():
        return embed(encoder, pixels)
    rows = np.array_split(np.arange(len(pixels)), parallel.size())[parallel.rank()]
    a, b = int(rows[0]), int(rows[-1]) + 1
    u8_NCHW, ids, labels = pixels.u8_NCHW[a:b], pixels.ids[a:b], pixels.labels[a:b]
    found = embed(encoder, Pixels(u8_NCHW, ids, labels, pixels.classes, pixels.fingerprint))
    z_ND, labels_N = (np.concatenate(parallel.collect(part)) for part in (found.embeddings, found.labels))
    return Embeddings(z_ND, labels_N, list(pixels.ids), list(pixels.classes))


@contextmanager
def open_run(recipe: Recipe, out: Path, *, resume: bool, overwrite: bool) -> Iterator[Run | None]:
    """A run directory for one stage. Yields None when it is done already and only to be resumed.

    A stage that fails before its first checkpoint leaves no directory behind, if it was this stage that made it; the
    run that it was to overwrite is put back. With `resume` there is nothing to overwrite. Of several processes only the
    leader touches it.
    """
    overwrite = overwrite and not resume
    held = holds_something(out)
    fresh = overwrite or not held
    opened = parallel.leader_first(lambda: _open(recipe, out, held=held, resume=resume, overwrite=overwrite))
    if not opened or not parallel.leads():
        yield Run(out) if opened else None
        return
    earlier = aside(out) if is_run(aside(out)) else None  # of this start, or of one that was killed
    try:
        write_text(out / "recipe.yaml", dump_recipe(recipe))
        yield Run(out)
    except BaseException:
        if fresh and not shows(out):
            discard(out)
            if earlier is not None and earlier.is_dir() and not out.exists():
                earlier.rename(out)
        raise
    finally:
        if earlier is not None and shows(out):
            discard(earlier)


def _open(recipe: Recipe, out: Path, *, held: bool, resume: bool, overwrite: bool) -> bool:
    """Makes the directory; whether there is anything to do."""
    if resume and held and not is_run(out):
        raise UserError(f"'{out}' is no lowdino run, so it cannot be resumed", "name the run's directory with --out")
    run = Run.create(out, resume=resume, overwrite=overwrite)
    if resume:
        check_same(recipe, run)
        for path in (out, aside(out)):
            sweep(path)
    if resume and run.done.is_file():
        if is_run(aside(out)):
            discard(aside(out))
        console.say(f"'{out}' is done already")
        return False
    return True


def check_same(recipe: Recipe, run: Run) -> None:
    """Raises `UserError` where the run was started with other settings."""
    if run.recipe.is_file() and load_recipe(run.recipe) != recipe:
        difference = _first_difference(run.recipe, dump_recipe(recipe))
        raise UserError(
            f"the settings differ from those '{run.path}' was started with: {difference}",
            "resume with the same settings (its recipe.yaml), or use another --out",
        )


def _first_difference(saved: Path, text: str) -> str:
    old, new = saved.read_text(encoding="utf-8").splitlines(), text.splitlines()
    pair = next(((a, b) for a, b in zip(old, new, strict=False) if a != b), ("", ""))
    return f"'{pair[0].strip()}' then, '{pair[1].strip()}' now"


def gpu_name(device: str) -> str | None:
    """As its maker calls it; None for a CPU."""
    import torch

    return torch.cuda.get_device_name(device) if device.startswith("cuda") else None if device == "cpu" else device


def pick_device(name: str) -> str:
    """`auto` takes CUDA, then MPS, then the CPU. Of several processes on a node each takes a GPU of its own."""
    import torch

    has = {"cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available(), "cpu": True}
    if name == "auto":
        name = next(d for d in ("cuda", "mps", "cpu") if has[d])
    if parallel.started() and name != "cpu":
        name = _own_gpu(name, torch.cuda.device_count())
    kind = name.split(":")[0]
    if kind not in has:
        raise UserError(f"unknown device '{name}'", "choose auto, cpu, cuda or mps")
    if not has[kind]:
        raise UserError(f"device '{name}' is not available here", "use --device auto")
    return name


def _own_gpu(name: str, gpus: int) -> str:
    """Of several processes on a node each takes a GPU of its own."""
    own = parallel.local_rank()
    if name != "cuda":
        raise UserError(f"several processes cannot share device '{name}'", "use --device cuda, or cpu")
    if own >= gpus:
        raise UserError(f"process {own + 1} of this node finds {gpus} GPUs", f"use --nproc-per-node {max(1, gpus)}")
    return f"cuda:{own}"


def seeded_sample(n: int, k: int, seed: int) -> np.ndarray:
    """k of n rows, the same on every machine, in ascending order."""
    return np.sort(np.random.Generator(np.random.PCG64([seed, n])).permutation(n)[:k])


def shorter_side(images: ImageSet, i: int) -> int | None:
    """Of image i, in pixels; None where it is broken."""
    from lowdino_edge.data.datasets import BrokenImage

    try:
        image = images.read(i)
    except BrokenImage:
        return None
    return min(image.shape[:2]) if isinstance(image, np.ndarray) else min(image.size)

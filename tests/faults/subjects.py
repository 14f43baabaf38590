"""The commands under test, small: what each needs, how it is started, resumed, and where its result lies."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from tests.faults import pieces
from tests.faults.zygote import Job, Zygote

DATA = "synthetic:96x24"
_SHARDS = "http://127.0.0.1:PORT/{train,val}-{000..001}.tar"  # of `pieces.Server`
_SMALL = [
    "--student", "nano", "--image-size", "24", "--batch-size", "24", "--device", "cpu", "--quiet",
]  # fmt: skip
_TRAIN = [
    "train", "--data", DATA, *_SMALL, "--epochs", "2",
    *(x for s in (
        "checkpoint_every=2", "views.global.size=24", "views.local.count=0", "dino.head.hidden_dim=32",
        "dino.head.bottleneck_dim=16", "dino.head.prototypes=32",
    ) for x in ("--set", f"train.{s}")),
]  # fmt: skip
_DISTILL = ["distill", "--data", DATA, *_SMALL, "--epochs", "2", "--set", "distill.checkpoint_every=2"]
_EXPORT = ["--calibration", DATA, "--set", "export.parity_images=8", "--set", "export.knn_images=0", "--quiet"]
_MEASURE = ["--data", DATA, "--runs", "5", "--threads", "1", "--quiet"]

CHAIN = f"""
name: chain
data: {{source: "{DATA}"}}
student: {{id: nano, image_size: 24}}
device: cpu
train:
  epochs: 1
  batch_size: 24
  checkpoint_every: 2
  views: {{global: {{size: 24}}, local: {{count: 0}}}}
  dino: {{head: {{hidden_dim: 32, bottleneck_dim: 16, prototypes: 32}}}}
distill: {{teacher: train, epochs: 1, batch_size: 24, checkpoint_every: 2, cache: cache}}
export: {{targets: [onnx], schemes: [none], calibration_images: 8, parity_images: 8}}
benchmark: {{devices: [host], runs: 5, threads: 1}}
"""


@dataclass(frozen=True)
class Subject:
    """One command.

    Attributes:
        argv: how it is started.
        again: how it goes on after a kill; the same where the command has no --resume.
        needs: pieces of `PIECES` that lie in its working directory, under what name.
        weight: how often it is drawn, beside the others.
    """

    id: str
    argv: tuple[str, ...]
    again: tuple[str, ...]
    needs: dict[str, str]
    weight: int = 2


def _subject(id: str, argv: list[str], *more: str, needs: dict[str, str] | None = None, weight: int = 2) -> Subject:
    return Subject(id, tuple(argv), (*argv, *more), needs or {}, weight)


_RESUMED = "--resume"
SUBJECTS: dict[str, Subject] = {
    s.id: s
    for s in (
        _subject("train", [*_TRAIN, "--out", "out"], _RESUMED, weight=4),
        _subject("overwrite", [*_TRAIN, "--out", "out", "--overwrite"], needs={"base": "out"}, weight=2),
        _subject("overwritten", [*_TRAIN, "--out", "out", "--overwrite"], _RESUMED, needs={"base": "out"}, weight=2),
        _subject(
            "distill", [*_DISTILL, "--teacher", "base", "--out", "out"], _RESUMED, needs={"base": "base"}, weight=3
        ),
        _subject(
            "cache",
            ["cache", "--teacher", "base", "--data", DATA, "--out", "cache", "--device", "cpu", "--quiet"],
            needs={"base": "base", "plan": "cache"},
            weight=3,
        ),
        _subject(
            "export",
            ["export", "base", "--target", "onnx", "--quantize", "none", "--quantize", "w8", *_EXPORT],
            needs={"base": "base"},
            weight=3,
        ),
        _subject("benchmark", ["benchmark", "base", *_MEASURE], needs={"base": "base"}, weight=2),
        _subject("eval", ["eval", "base", "--data", DATA, "--task", "knn", "--quiet"], needs={"base": "base"}),
        _subject("embed", ["embed", "base", "--data", DATA, "--out", "e.npz", "--quiet"], needs={"base": "base"}),
        _subject(
            "curate",
            ["curate", "--data", "pool", "--out", "out", "--quiet"],
            _RESUMED,
            needs={"pool": "pool"},
            weight=3,
        ),
        _subject(
            "shards",
            ["embed", "base", "--data", _SHARDS, "--out", "e.npz", "--quiet"],
            needs={"base": "base"},
            weight=3,
        ),
        _subject("shard", ["shard", "--data", DATA, "--out", "packed", "--per-shard", "20", "--quiet"]),
        _subject("report", ["report", "base", "--quiet"], needs={"base": "base"}),
        _subject(
            "run", ["run", "chain.yaml", "--out", "out", "--quiet"], _RESUMED, needs={"chain": "chain.yaml"}, weight=4
        ),
    )
}


class Place:
    """Folders of one harness: `pieces/`, made once, and `trial/cwd`, `trial/tmp`, made anew for every trial.

    Trials use the same path one after the other: some results hold the paths of what was measured.
    """

    def __init__(self, root: Path, zygote: Zygote) -> None:
        self.root, self.zygote = root.resolve(), zygote
        self.trial, self.said = self.root / "trial", self.root / "said"
        self.cwd, self.tmp = self.trial / "cwd", self.trial / "tmp"
        self.pieces = self.root / "pieces"
        self._server: pieces.Server | None = None

    def fresh(self, needs: dict[str, str]) -> None:
        for name in needs:
            self.piece(name)  # it may be made here
        shutil.rmtree(self.trial, ignore_errors=True)
        self.cwd.mkdir(parents=True)
        self.tmp.mkdir()
        self.fill(needs)

    def fill(self, needs: dict[str, str]) -> None:
        for name, under in needs.items():
            piece = self.piece(name)
            if piece.is_dir():
                shutil.copytree(piece, self.cwd / under, dirs_exist_ok=True)
            else:
                shutil.copy2(piece, self.cwd / under)

    def piece(self, name: str) -> Path:
        """Made when first asked for."""
        made = self.pieces / name
        if not made.exists():
            self.pieces.mkdir(parents=True, exist_ok=True)
            PIECES[name](self, made)
        return made

    def job(self, *argv: str, cwd: Path | None = None, **more: object) -> Job:
        if any("PORT" in a for a in argv):
            self._server = self._server or pieces.Server(self.piece("shards"))
            argv = tuple(a.replace("PORT", str(self._server.port)) for a in argv)
        env = {"TMPDIR": str(self.tmp), "LOWDINO_CACHE": str((cwd or self.cwd) / "kept"), **dict(more.pop("env", {}))}  # type: ignore[call-overload]
        return Job(tuple(argv), str(cwd or self.cwd), str(self.said), env=env, **more)  # type: ignore[arg-type]

    def must(self, *argv: str, cwd: Path | None = None, seconds: float = 600) -> None:
        """Runs a command that has to succeed."""
        code = self.zygote.wait(self.zygote.start(self.job(*argv, cwd=cwd)), seconds)
        assert code == 0, f"{' '.join(argv[:2])} gave {code}: {self.stderr()}"

    def stderr(self) -> str:
        return Path(f"{self.said}.err").read_text(errors="replace")[-3000:]

    def ops(self) -> Path:
        return Path(f"{self.said}.ops")

    def synced(self) -> Path:
        return Path(f"{self.said}.synced")


def _base(place: Place, made: Path) -> None:
    """A finished run of another seed with an artifact, a benchmark and a report."""
    work = place.root / "making"
    shutil.rmtree(work, ignore_errors=True)
    work.mkdir(parents=True)
    place.tmp.mkdir(parents=True, exist_ok=True)
    place.must(*_TRAIN, "--out", "base", "--seed", "7", cwd=work)
    place.must("export", "base", "--target", "onnx", "--quantize", "none", *_EXPORT, cwd=work)
    place.must("benchmark", "base", *_MEASURE, cwd=work)
    place.must("embed", "base", "--data", DATA, "--out", "e.npz", "--quiet", cwd=work)
    place.must("report", "base", "--quiet", cwd=work)
    (work / "base").rename(made)
    (work / "e.npz").rename(place.pieces / "earlier.npz")


def _plan(place: Place, made: Path) -> None:
    """A cache that was begun, of four shards instead of one."""
    work = place.root / "making"
    base = place.piece("base")
    shutil.rmtree(work, ignore_errors=True)
    shutil.copytree(base, work / "base")
    place.must(*SUBJECTS["cache"].argv, cwd=work)
    (plan,) = (work / "cache").glob("*/plan.json")
    told = json.loads(plan.read_text())
    begun = made / plan.parent.name
    begun.mkdir(parents=True)
    (begun / "plan.json").write_text(json.dumps({**told, "shard_rows": -(-told["images"] // 4)}))


def _chain(place: Place, made: Path) -> None:
    made.write_text(CHAIN)


def _begun(place: Place, made: Path) -> None:
    """A training that was killed after its second checkpoint."""
    for at in range(60, 400, 20):
        place.fresh({})
        subject = SUBJECTS["train"]
        place.zygote.wait(place.zygote.start(place.job(*subject.argv, kill_at=at)), 600)
        if len(list(place.cwd.glob("out/checkpoints/step_*/meta.json"))) >= 2:
            break
    shutil.copytree(place.cwd / "out", made)


def _cached(place: Place, made: Path) -> None:
    """A run, the cache of its targets, and a cache of four shards."""
    place.fresh(SUBJECTS["cache"].needs)
    place.must(*SUBJECTS["cache"].argv)
    shutil.copytree(place.cwd, made)


def _halfway(place: Place, made: Path) -> None:
    """A chain whose last stage is missing."""
    place.fresh(SUBJECTS["run"].needs)
    place.must(*SUBJECTS["run"].argv)
    for name in ("DONE", "results/benchmark__all__host.json"):
        (place.cwd / "out" / name).unlink()
    shutil.copytree(place.cwd, made)


def _phone(place: Place, made: Path) -> None:
    """A run with a LiteRT file."""
    work = place.root / "making"
    base = place.piece("base")
    shutil.rmtree(work, ignore_errors=True)
    shutil.copytree(base, work / "base")
    place.must("export", "base", "--target", "tflite", "--quantize", "none", *_EXPORT, cwd=work)
    (work / "base").rename(made)


PIECES: dict[str, Callable[[Place, Path], None]] = {
    "base": _base, "plan": _plan, "chain": _chain, "begun": _begun, "cached": _cached, "halfway": _halfway,
    "phone": _phone, "pool": lambda _, made: pieces.pool(made), "shards": lambda _, made: pieces.shards(made),
}  # fmt: skip

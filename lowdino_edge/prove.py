"""Export with proof: write the file, load it back on its own runtime, compare with PyTorch on real images.

A file that does not agree is never left behind: everything happens in a temporary directory beside the target and is
renamed into place once the card is written.
"""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from lowdino_edge import artifact as artifacts
from lowdino_edge import runtimes
from lowdino_edge.artifact import Artifact
from lowdino_edge.errors import UserError
from lowdino_edge.export import TargetSpec, check_scheme
from lowdino_edge.types import Calibration, Encoder, Float, Parity

if TYPE_CHECKING:
    from lowdino_edge.models.backbone import Student

# Mean cosine to PyTorch's embeddings, and share of images that keep their nearest neighbour; under them export fails.
# The second is lower than one would wish for int8: among a few hundred images many have two neighbours almost as near.
THRESHOLDS = {"none": 0.9999, "fp16": 0.999, "w8": 0.99, "w8a8": 0.98}
NEIGHBOURS = {"none": 0.98, "fp16": 0.95, "w8": 0.7, "w8a8": 0.5}
GOLDEN_IMAGES = 4
_BATCH = 64


def export_verified(
    student: Student,
    target: str,
    scheme: str,
    calibration: Calibration | None,
    parity_NCHW: Float,
    out: Path,
    *,
    extra: dict[str, Any] | None = None,
) -> Artifact:
    """Writes `out/<target>-<scheme>/{model file, golden.npz, artifact.json}`, proven; replaces an earlier one.

    Args:
        student: stays as it is; a copy is exported.
        calibration: images for choosing integer ranges; only w8a8 reads them.
        parity_NCHW: real images that calibration did not see, float32 RGB in [0, 1], (N, 3, H, W), N >= 2, of 8-bit
            values (Core ML takes images: other values would be rounded there and count as disagreement). The first
            four become golden.npz: their pixels, what this file gives for them on its own runtime (what a phone must
            reproduce) and, as `reference`, what PyTorch gives.
        extra: further fields for the card, such as fingerprints and licences of data and teacher.

    Raises:
        UserError: an unknown pair of target and scheme, a missing extra, an operator that does not convert, parity
            under its threshold (with the figures). Nothing is left behind, also after an interruption.
    """
    spec, scheme = check_scheme(target, scheme)
    if len(parity_NCHW) < 2:
        raise UserError(f"{len(parity_NCHW)} images cannot prove an export", "give at least 2, better 256")
    images_NCHW = np.ascontiguousarray(parity_NCHW, dtype=np.float32)
    place = out / f"{spec.id}-{scheme}"
    with _directory(place) as tmp:
        start = time.perf_counter()
        file = tmp / f"model{spec.suffix}"
        said = spec.load().lower(student, scheme, calibration, file)
        card = {
            **_identity(student, spec, scheme, calibration),
            **(extra or {}),
            "file": file.name,
            **said,
            "export_seconds": round(time.perf_counter() - start, 2),
        }
        draft = Artifact(tmp, {**card, "bytes": artifacts.size_bytes(file), "sha256": artifacts.digest(file)})
        z_ref_ND = _embed(_eager(student), images_NCHW)
        z_ND, card["parity"] = _prove(draft, images_NCHW, z_ref_ND)
        n = GOLDEN_IMAGES
        artifacts.write_golden(tmp, inputs_NCHW=images_NCHW[:n], embedding_ND=z_ND[:n], reference_ND=z_ref_ND[:n])
        card["golden_sha256"] = artifacts.digest(tmp / artifacts.GOLDEN)
        artifacts.write_card(tmp, card)
    return Artifact.read(place)


def _prove(artifact: Artifact, images_NCHW: Float, z_ref_ND: Float) -> tuple[Float, dict[str, Any]]:
    """The file's embeddings and its parity record. Every way of running the file has to agree with PyTorch."""
    from lowdino_edge.evals.parity import parity

    z_first_ND: Float | None = None
    records: list[Parity] = []
    for encoder in (runtimes.load(artifact), *runtimes.variants(artifact)):
        z_ND = _embed(encoder, images_NCHW)
        record = parity(z_ref_ND, z_ND, getattr(encoder, "method", artifact.target))
        _check(artifact, record, finite=bool(np.isfinite(z_ND).all()))
        records.append(record)
        z_first_ND = z_ND if z_first_ND is None else z_first_ND
    assert z_first_ND is not None
    first = {
        **asdict(records[0]),
        "threshold": THRESHOLDS[artifact.scheme],
        "threshold_neighbours": NEIGHBOURS[artifact.scheme],
    }
    return z_first_ND, {**first, **({"also": [asdict(r) for r in records[1:]]} if records[1:] else {})}


def _check(artifact: Artifact, record: Parity, *, finite: bool) -> None:
    threshold, neighbours = THRESHOLDS[artifact.scheme], NEIGHBOURS[artifact.scheme]
    if finite and record.cosine_mean >= threshold and record.neighbour_agreement >= neighbours:
        return
    figures = (
        f"cosine mean {record.cosine_mean:.4f} (needs {threshold}), min {record.cosine_min:.4f}, max-abs "
        f"{record.max_abs:.3g}, neighbours kept {record.neighbour_agreement:.3f} (needs {neighbours}), "
        f"{record.n} images, {record.method}"
    )
    schemes = check_scheme(artifact.target, artifact.scheme)[0].schemes
    milder = [s for s in schemes if THRESHOLDS[s] > threshold]
    hint = f"use --quantize {' or '.join(reversed(milder))}" if milder else "try another target, or another student"
    raise UserError(
        f"{artifact.name} of '{artifact.card['student']}' does not agree with PyTorch: "
        + (figures if finite else f"embeddings that are not finite, {record.method}"),
        hint,
    )


def _identity(student: Student, spec: TargetSpec, scheme: str, calibration: Calibration | None) -> dict[str, Any]:
    """What the artifact is and where it comes from."""
    from lowdino_edge.models.students import STUDENTS
    from lowdino_edge.models.weights import fingerprint

    used = calibration if scheme == "w8a8" else None
    return {
        "target": spec.id,
        "scheme": scheme,
        "student": student.id,
        "embed_dim": student.embed_dim,
        "preprocess": student.preprocess.to_dict(),
        "licence": STUDENTS[student.id].licence if student.id in STUDENTS else None,
        "source": {
            "weights_sha256": fingerprint(student, student.id),
            "params": sum(p.numel() for p in student.parameters()),
        },
        "calibration": {"source": used.source, "images": len(used.images_NCHW), **used.extra} if used else None,
    }


def _eager(student: Student) -> Encoder:
    from lowdino_edge.export.base import frozen
    from lowdino_edge.runtimes.eager import EagerEncoder

    return EagerEncoder(frozen(student))


def _embed(encoder: Encoder, images_NCHW: Float) -> Float:
    return np.concatenate([encoder(images_NCHW[i : i + _BATCH]) for i in range(0, len(images_NCHW), _BATCH)])


@contextmanager
def _directory(place: Path) -> Iterator[Path]:
    """A temporary sibling of `place` that takes its place once the block succeeds, and is removed otherwise."""
    place.parent.mkdir(parents=True, exist_ok=True)
    _sweep(place)
    tmp = place.with_name(f".{place.name}.{os.getpid()}.tmp")
    tmp.mkdir()
    try:
        yield tmp
        old = place.with_name(f".{place.name}.{os.getpid()}.old")
        if place.exists():
            place.rename(old)
        tmp.rename(place)
        shutil.rmtree(old, ignore_errors=True)
    finally:
        shutil.rmtree(tmp, ignore_errors=True)


def _sweep(place: Path) -> None:
    """Removes what exports to the same place left when they were killed."""
    for stale in place.parent.glob(f".{place.name}.*.*"):
        pid = stale.name.split(".")[-2]
        if pid.isdecimal() and (int(pid) == os.getpid() or not _alive(int(pid))):
            shutil.rmtree(stale, ignore_errors=True)


def _alive(pid: int) -> bool:
    if os.name == "nt":  # there signal 0 is Ctrl-C
        return True
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except OSError:  # somebody else's
        return True
    return True

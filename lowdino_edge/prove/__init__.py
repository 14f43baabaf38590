"""Export with proof: write the file, load it back on its own runtime, compare with PyTorch on real images.

A file that does not agree is never left behind: everything happens in a temporary directory beside the target and is
renamed into place once the card is written.
"""

from __future__ import annotations

import shutil
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from lowdino_edge import artifact as artifacts
from lowdino_edge import console, runtimes
from lowdino_edge.artifact import Artifact
from lowdino_edge.card import artifact_card
from lowdino_edge.export import TargetSpec, check_scheme, need_packages
from lowdino_edge.prove.agreement import GOLDEN_IMAGES, Disagrees, prove
from lowdino_edge.prove.agreement import MAX_KNN_DROP as MAX_KNN_DROP
from lowdino_edge.prove.agreement import NEIGHBOURS as NEIGHBOURS
from lowdino_edge.prove.agreement import THRESHOLDS as THRESHOLDS
from lowdino_edge.prove.subject import Subject as Subject
from lowdino_edge.scratch import replacing
from lowdino_edge.types import Calibration, Float

if TYPE_CHECKING:
    from lowdino_edge.export.base import Source
    from lowdino_edge.models.backbone import Student

_MODEL_CARD = "MODEL_CARD.md"


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
    """`export_subject` for a single file, without a kNN budget."""
    return export_subject(Subject(student, calibration, parity_NCHW), target, scheme, out, extra=extra)


def export_subject(
    subject: Subject, target: str, scheme: str, out: Path, *, extra: dict[str, Any] | None = None
) -> Artifact:
    """Writes `out/<target>-<scheme>/{model file, golden.npz, MODEL_CARD.md, artifact.json}`, proven; replaces an
    earlier one.

    The first four proof images become golden.npz: their pixels, what this file gives for them on its own runtime (what
    a phone must reproduce) and, as `reference`, what PyTorch gives.

    Args:
        extra: further fields for the card, such as fingerprints and licences of data and teacher.

    Raises:
        UserError: an unknown pair of target and scheme, a missing extra, an operator that does not convert, parity
            under its threshold or kNN over its budget (with the figures). Nothing is left behind, also after an
            interruption.
    """
    spec, scheme = check_scheme(target, scheme)
    need_packages(spec)
    place = out / f"{spec.id}-{scheme}"
    with replacing(place) as tmp:
        start = time.perf_counter()
        card = {**_identity(subject.student, spec, scheme, subject.calibration), **(extra or {})}
        said, proof, golden_nD = _first_that_agrees(subject, spec, scheme, card, tmp)
        card |= {**said, **proof, "export_seconds": round(time.perf_counter() - start, 2)}
        artifacts.write_golden(
            tmp,
            inputs_NCHW=subject.images_NCHW[:GOLDEN_IMAGES],
            embedding_ND=golden_nD,
            reference_ND=subject.reference_ND[:GOLDEN_IMAGES],
        )
        card["golden_sha256"] = artifacts.digest(tmp / artifacts.GOLDEN)
        file = tmp / card["file"]
        text = artifact_card({**card, "bytes": artifacts.size_bytes(file), "sha256": artifacts.digest(file)})
        (tmp / _MODEL_CARD).write_text(text, encoding="utf-8")
        artifacts.write_card(tmp, card)
    return Artifact.read(place)


def _first_that_agrees(
    subject: Subject, spec: TargetSpec, scheme: str, card: dict[str, Any], tmp: Path
) -> tuple[dict[str, Any], dict[str, Any], Float | None]:
    """Converts and proves, with more and more layers in float until the file agrees: what the converter said, what the
    proof found, and the file's embeddings of the golden images."""
    refused: Disagrees | None = None
    try:
        for source in subject.sources(spec, scheme):
            file = tmp / f"model{spec.suffix}"
            _clear(file)
            said = {"file": file.name, **spec.load().lower(source, scheme, file)}
            draft = Artifact(tmp, {**card, **said, "bytes": artifacts.size_bytes(file), "sha256": ""})
            if spec.unproven is not None:
                return said, {"parity": _no_parity(spec.unproven)}, None
            try:
                golden_nD, proof = prove(draft, subject)
            except Disagrees as e:
                refused = e
                console.say(f"{draft.name}: {e.message}")
                continue
            if source.decision is not None:
                said["quantization"]["cost_ms"] = _cost(spec, source, draft, subject, tmp)
            return said, proof, golden_nD
    except Disagrees as e:
        refused = refused or e
    assert refused is not None
    raise refused


def _clear(file: Path) -> None:
    if file.is_dir():
        shutil.rmtree(file)
    file.unlink(missing_ok=True)


def _no_parity(reason: str) -> dict[str, Any]:
    unknown = dict.fromkeys(("cosine_mean", "cosine_min", "max_abs", "neighbour_agreement", "method"))
    return {**unknown, "n": 0, "reason": reason}


def _cost(spec: TargetSpec, source: Source, artifact: Artifact, subject: Subject, tmp: Path) -> dict[str, Any] | None:
    """Milliseconds of the file, and of the one with every layer in int8, interleaved; None where none was kept or
    where nothing here has the speed of a device."""
    if source.decision is None or not source.decision.kept or spec.id == "coreml":
        return None
    whole = tmp / "all_int8"
    whole.mkdir()
    file = whole / artifact.file.name
    card = {**artifact.card, **spec.load().lower(subject.all_int8(spec), "w8a8", file), "file": file.name}
    pair = {"all_int8": runtimes.load(Artifact(whole, card)), "this": runtimes.load(artifact)}
    samples: dict[str, list[float]] = {name: [] for name in pair}
    for turn in range(33):
        for name, encoder in pair.items():
            start = time.perf_counter()
            encoder(subject.images_NCHW[:1])
            if turn >= 3:  # warm
                samples[name].append(1000 * (time.perf_counter() - start))
    shutil.rmtree(whole)
    return {name: round(float(np.median(ms)), 4) for name, ms in samples.items()}


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

"""MODEL_CARD.md of one artifact, drawn from its artifact.json alone, so that it can be drawn again at any time."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from lowdino_edge.card.exported import cost_ms, delegation, kept_float
from lowdino_edge.card.facts import (
    NOT_MEASURED,
    Dict,
    at,
    data_and_teacher,
    licence,
    number,
    percent,
    protocol_text,
)
from lowdino_edge.card.text import INTENDED_USE, LIMITS, bullets, count, md, table

Row = tuple[str, str, str]


def artifact_card(card: Dict) -> str:
    """MODEL_CARD.md of an artifact.

    Args:
        card: artifact.json. What is not in it is said to be not measured or unknown; nothing is filled in.
    """
    name = f"{card.get('target')}-{card.get('scheme')}"
    parts = [
        f"# {md(card.get('student') or 'student')}, {md(name)}",
        "A small vision backbone, exported by lowdino: an RGB image in, an embedding out. It has no classifier; "
        "compare embeddings (kNN), or train a small head on them.",
        "## File",
        bullets(
            ("file", card.get("file")),
            ("target and scheme", f"{card.get('target')}, {card.get('scheme')}"),
            ("parameters", count(number(card, "source", "params"))),
            ("sha256", card.get("sha256")),
            ("made with", _pairs(card.get("toolchain"))),
            ("note", card.get("note")),
        ),
        "## How to feed it",
        _feeding(card),
        "## Training",
        *_training(card),
        "## Figures",
        table(("figure", "value", "measured how"), _figures(card)),
        *_integers(card),
        "## Licences",
        *_licences(card),
        "## Intended use",
        INTENDED_USE,
        "## Limits",
        "\n".join(f"- {limit}" for limit in (*LIMITS, *_limits(card))),
    ]
    return "\n\n".join(p for p in parts if p) + "\n"


def _feeding(card: Dict) -> str:
    pre, given = at(card, "preprocess"), at(card, "input")
    size, resize = number(pre, "image_size"), number(pre, "resize")
    low, high = at(given, "range") if _is_pair(at(given, "range")) else (None, None)
    steps = (
        f"resize the shorter side to {resize or size:g} px ({at(pre, 'interpolation')}), cut out the central "
        f"{size:g} x {size:g} px, RGB"
        if size is not None
        else None
    )
    return bullets(
        ("preprocessing", steps),
        ("input", _tensor(given)),
        ("values", None if low is None else f"{low:g} to {high:g}; mean and standard deviation are inside the file"),
        ("output", _tensor(at(card, "output"))),
        ("compare by", "cosine of two embeddings"),
        ("check", "golden.npz holds images and the embeddings that this file gives for them, where it could be run"),
    )


def _is_pair(value: Any) -> bool:
    return isinstance(value, list) and len(value) == 2 and all(number({"x": v}, "x") is not None for v in value)


def _tensor(tree: Any) -> str | None:
    """`image (1, 3, 48, 48) float32 NCHW`."""
    shape = at(tree, "shape")
    if not isinstance(shape, list):
        return None
    words = [at(tree, "name"), f"({', '.join(map(str, shape))})", at(tree, "dtype"), at(tree, "layout")]
    return " ".join(str(w) for w in words if w is not None)


def _training(card: Dict) -> list[str]:
    origin = card.get("origin")
    if not isinstance(origin, dict) or not origin:
        return ["Not recorded: no run's student.json came with these weights. They may be random."]
    teacher, print_ = origin.get("teacher"), origin.get("teacher_fingerprint")
    weights = f" (weights {str(print_)[:12]})" if print_ else ""
    return [
        bullets(
            ("method", origin.get("method")),
            ("data", origin.get("data")),
            ("data fingerprint", origin.get("data_fingerprint")),
            ("teacher", f"{teacher}{weights}" if teacher else "none"),
            ("weights sha256", origin.get("sha256")),
        )
    ]


def _figures(card: Dict) -> list[Row]:
    return [_size(card), *_parity(card), *_knn(card), *_delegation(card), _latency(card)]


def _size(card: Dict) -> Row:
    size, params = number(card, "bytes"), number(card, "source", "params")
    if size is None:
        return "size", NOT_MEASURED, ""
    share = f", {100 * size / (4 * params):.1f}% of its weights in float32" if params else ""
    return "size", f"{size / 1e6:.2f} MB{share}", f"the file's {int(size):,} bytes; 4 bytes a parameter"


def _parity(card: Dict) -> list[Row]:
    parity, proof = at(card, "parity"), at(card, "proof")
    mean, n = number(parity, "cosine_mean"), number(parity, "n")
    if mean is None:
        return [("agreement with PyTorch", NOT_MEASURED, str(at(parity, "reason") or "no reason recorded"))]
    on = f"{n or 0:g} images" + (
        f" of {at(proof, 'source')}, {at(proof, 'split')} split" if isinstance(proof, dict) else ""
    )
    how = f"{on}; run by {at(parity, 'method')}, beside the float network in PyTorch"
    need, need_kept = number(parity, "threshold"), number(parity, "threshold_neighbours")
    rows = [
        ("cosine to PyTorch, mean", f"{mean:.6f}", how + ("" if need is None else f"; refused below {need:g}")),
        ("cosine to PyTorch, least", _digits(number(parity, "cosine_min"), 6), "the same images"),
        ("largest difference of a value", _digits(number(parity, "max_abs"), 6), "the same images"),
        (
            "nearest neighbour kept",
            _digits(number(parity, "neighbour_agreement"), 3),
            "share of the same images whose nearest other image is the one PyTorch finds"
            + ("" if need_kept is None else f"; refused below {need_kept:g}"),
        ),
    ]
    others = at(parity, "also")
    for other in others if isinstance(others, list) else []:
        rows.append(
            ("cosine to PyTorch, mean", _digits(number(other, "cosine_mean"), 6), f"run by {at(other, 'method')}")
        )
    return rows


def _knn(card: Dict) -> list[Row]:
    knn = at(card, "knn")
    top1, base, drop = (number(knn, key) for key in ("top1", "top1_float", "drop_points"))
    if top1 is None:
        reason = at(knn, "reason") or "export measures it for integer schemes alone; lowdino benchmark for every file"
        return [("kNN top-1", NOT_MEASURED, str(reason))]
    budget = number(knn, "budget_points")
    how = f"{protocol_text(knn)}; embeddings by this file's own runtime"
    return [
        ("kNN top-1", percent(top1), how),
        ("kNN top-1 of the float network", percent(base), "the same protocol and images"),
        (
            "kNN lost",
            NOT_MEASURED if drop is None else f"{drop:.2f} points",
            "" if budget is None else f"refused above {budget:.1f} points",
        ),
    ]


def _delegation(card: Dict) -> list[Row]:
    said = delegation(card)
    if said.share is None:
        return [("operators delegated", NOT_MEASURED, said.note)]
    macs = number(card, "delegation", "coverage_macs")
    work = f"; {100 * macs:.1f}% of the multiply-adds" if macs is not None else ""
    return [
        ("operators delegated", f"{said.words}{work}", f"to {said.to}; read from the file"),
        ("operators left", ", ".join(said.left) or "none", "they run outside the delegate" if said.left else ""),
    ]


def _latency(card: Dict) -> Row:
    return "latency", NOT_MEASURED, "it belongs to a device: lowdino benchmark measures it there"


def _integers(card: Dict) -> list[str]:
    """How integers were chosen, and which layers stayed float, why, and what that cost."""
    q, cal = card.get("quantization"), card.get("calibration")
    if not isinstance(q, dict):
        return []
    kept, cost = kept_float(card), cost_ms(card)
    said = (
        f"{cost[0]:.2f} ms against {cost[1]:.2f} ms with everything in int8 ({cost[0] - cost[1]:+.2f}); one thread, "
        "calls in turns, on the machine of the export"
        if cost
        else NOT_MEASURED
    )
    return [
        "## Integers",
        bullets(
            ("weight bits", q.get("weight_bits")),
            ("weights per channel", "yes" if q.get("per_channel") is True else "no"),
            ("ranges", q.get("ranges")),
            ("chosen on", f"{at(cal, 'images')} images of {at(cal, 'source')}" if isinstance(cal, dict) else None),
            ("convolutions in int8", _of(q.get("convolutions_int8"), q.get("convolutions"))),
            ("layers equalised", q.get("equalised")),
            ("layers kept in float", len(kept) if kept else "none"),
            ("what they cost", said if kept else None),
        ),
        table(
            ("kept in float", "operators", "why", "cosine lost with it in int8"),
            [(k.module, k.operators, k.why, _digits(k.loss, 4)) for k in kept],
        )
        if kept
        else "",
    ]


def _licences(card: Dict) -> list[str]:
    origin = card.get("origin")
    origin = origin if isinstance(origin, dict) else {}
    architecture = f"student architecture {card.get('student') or ''}".strip()
    found = [(architecture, licence(card.get("licence"))), *data_and_teacher(origin)]
    if not origin.get("teacher"):
        found.append(("teacher", "none" if origin else licence(None)))
    return [
        bullets(*found, ("lowdino, which wrote this file", "Apache-2.0")),
        "The weights learned from the data and the teacher: see that their terms allow your use.",
    ]


def _limits(card: Dict) -> Sequence[str]:
    parity = at(card, "parity")
    if number(parity, "cosine_mean") is None:
        proven = (
            f"No runtime ran this file before it was handed out: {md(at(parity, 'reason') or 'no reason recorded')}."
        )
    else:
        proven = (
            f"It was proven by {md(at(parity, 'method'))} on one machine. Another version, delegate or processor may "
            "round otherwise: compare with golden.npz there."
        )
    return (
        proven,
        "Not measured: other data than named above, other cameras, light and compression, fairness over groups of "
        "people, energy.",
    )


def _of(part: Any, whole: Any) -> str | None:
    return None if part is None else f"{part}" if whole is None else f"{part} of {whole}"


def _pairs(tree: Any) -> str | None:
    return ", ".join(f"{k} {v}" for k, v in tree.items()) if isinstance(tree, dict) and tree else None


def _digits(value: float | None, digits: int) -> str:
    return NOT_MEASURED if value is None else f"{value:.{digits}f}"

"""The report's sections on training: headline figures, curves, kNN beside its baselines."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from html import escape

from lowdino_edge.card.facts import Facts, Stage, at, distillation_verdict, number, pending, percent, protocol_text
from lowdino_edge.plots import Level, Series, line_chart
from lowdino_edge.report.page import missing, para, section, table, tile

_WHO = {
    "student": "this run's student",
    "train": "after training",
    "distill": "after distillation",
    "untrained": "the same backbone, untrained",
    "pixels": "raw pixels",
}
_FAST_S = 120


def header(facts: Facts) -> str:
    s = facts.student
    params, size = number(s, "params"), number(s, "preprocess", "image_size")
    what = [
        str(s["id"]) if s.get("id") else None,
        f"{params / 1e6:.2f}M parameters" if params else None,
        f"{size:g} px" if size else None,
        f"data {at(facts.recipe, 'data', 'source')}" if at(facts.recipe, "data", "source") else None,
    ]
    left = pending(facts)
    done = f"done {facts.done}" if facts.done is not None else "complete"
    chip = (
        f'<span class="chip no">not finished, still to come: {escape(", ".join(left))}</span>'
        if left
        else f'<span class="chip ok">{escape(done)}</span>'
    )
    text = " · ".join(w for w in what if w)
    warning = "".join(para(f"{p}; it is left out.", "warn") for p in facts.problems)
    return f'<h1>{escape(facts.name)}</h1><p class="sub">{escape(text)}</p><p>{chip}</p>{warning}'


def headline(facts: Facts) -> str:
    """The figures one looks for first, and whether distillation added."""
    top, rows = facts.top1("student"), [r for r in facts.rows if r.get("target") != "pytorch"]
    sizes = [(b, c) for c in facts.artifacts if (b := number(c, "bytes")) is not None]
    timed = [(t, r) for r in rows if not r.get("emulated") and (t := number(r, "latency_ms", "p50")) is not None]
    cosines = [v for c in facts.artifacts if (v := number(c, "parity", "cosine_mean")) is not None]
    tiles = [
        tile(None if top is None else percent(top), "kNN top-1 of the student, no label seen in training"),
        tile(_gain(top, facts.top1("untrained")), "points over the same backbone untrained"),
        tile(_gain(top, facts.top1("pixels")), "points over raw pixels"),
        tile(
            str(len(cosines)) if cosines else None,
            "artifacts verified" + (f", mean cosine to PyTorch at least {min(cosines):.4f}" if cosines else ""),
        ),
    ]
    if sizes:
        smallest, card = min(sizes, key=lambda pair: pair[0])
        tiles.append(
            tile(f"{smallest / 1e6:.2f} MB", f"the smallest artifact, {card.get('target')}-{card.get('scheme')}")
        )
    if timed:
        fastest, row = min(timed, key=lambda pair: pair[0])
        tiles.append(
            tile(f"{fastest:.2f} ms", f"the fastest, {row.get('artifact')} on {row.get('device')} (p50, batch 1)")
        )
    protocol = facts.knn.get("student")
    return (
        f'<div class="tiles">{"".join(tiles)}</div>'
        + para(distillation_verdict(facts), "say")
        + (para(f"kNN here and under Accuracy: {protocol_text(protocol)}.", "note") if protocol else "")
    )


def _gain(top: float | None, base: float | None) -> str | None:
    return None if top is None or base is None else f"{100 * (top - base):+.1f}"


def accuracy(facts: Facts) -> str:
    """kNN of the student and of what it is compared with; then other values of k and other protocols."""
    if not facts.knn and not facts.other_knn:
        return section("Accuracy", missing("kNN", "It needs labels in both splits."))
    order = [*[w for w in _WHO if w in facts.knn], *sorted(w for w in facts.knn if w not in _WHO)]
    also = [found for w in order if isinstance(found := at(facts.knn[w], "also"), dict)]
    ks = sorted({int(k) for found in also for k in found if re.fullmatch("[0-9]{1,9}", k)})
    head = ["", "kNN top-1", *(f"k = {k}" for k in ks)]
    rows = [[_WHO.get(who, who), percent(facts.top1(who)), *(_also(facts, who, k) for k in ks)] for who in order]
    lines = [para(f"{_WHO.get(w, w)}: {protocol_text(facts.knn[w])}.", "note") for w in order if _differs(facts, w)]
    others = [para(f"{_WHO.get(w, w)}: {percent(number(r, 'top1'))}; {protocol_text(r)}.") for w, r in facts.other_knn]
    return section("Accuracy", table(head, rows) if rows else "", *lines, *others)


def _also(facts: Facts, who: str, k: int) -> str:
    value = number(facts.knn[who], "also", str(k))
    return "–" if value is None else percent(value)


def _differs(facts: Facts, who: str) -> bool:
    """Whether a figure was measured otherwise than the student's."""
    first = facts.knn.get("student")
    return first is None or protocol_text(first) != protocol_text(facts.knn[who])


def curves(facts: Facts) -> str:
    """Loss, kNN, teacher entropy against ln K, KL and the spread of embeddings, for every stage."""
    if not facts.stages:
        return section("Training", missing("Training curves"))
    parts = []
    for stage in facts.stages:
        parts.append(f"<h3>{'Distillation' if stage.name == 'distill' else 'Training'}</h3>")
        parts.append(para(_summary(facts, stage), "note"))
        charts = [c for c in _charts(facts, stage) if c]
        parts.append(f'<div class="charts">{"".join(charts)}</div>' if charts else missing("Training curves"))
        parts.append(_collapse_note(facts, stage))
    return section("Training", *parts)


def _charts(facts: Facts, stage: Stage) -> list[str]:
    levels = [
        Level(100 * v, name)
        for who, name in (("untrained", "untrained"), ("pixels", "raw pixels"))
        if (v := facts.top1(who)) is not None
    ]
    knn = [(e, 100 * v) for e, v in _column(stage, "knn_top1")]
    ceiling = entropy_ceiling(facts, stage)
    top = [Level(ceiling, f"ln K = {ceiling:.2f}")] if ceiling is not None else []
    return [
        _chart("Loss", "nats", stage, "loss"),
        line_chart(
            [Series("kNN", [e for e, _ in knn], [v for _, v in knn], 1, marks=True)],
            title="kNN top-1 during training", x_label="epoch", y_label="%", levels=levels if knn else [],
        ),
        _chart("Teacher entropy (ln K: uniform)", "nats", stage, "teacher_entropy", 2, top, True),
        _chart("KL from teacher to student", "nats", stage, "kl", 3, zero=True),
        _chart("Spread of embeddings (0: collapse)", "standard deviation", stage, "embedding_std", 0, zero=True),
        _chart("Effective rank of embeddings", "dimensions", stage, "effective_rank", 1, zero=True),
        _chart("Learning rate", "lr", stage, "lr", 4, zero=True),
    ]  # fmt: skip


def _chart(
    title: str, unit: str, stage: Stage, key: str, colour: int = 0, levels: Sequence[Level] = (), zero: bool = False
) -> str:
    points = _column(stage, key)
    line = Series(key, [e for e, _ in points], [v for _, v in points], colour)
    return line_chart([line], title=title, x_label="epoch", y_label=unit, levels=levels, zero=zero)


def _column(stage: Stage, key: str) -> list[tuple[float, float]]:
    pairs = [(number(row, "epoch"), number(row, key)) for row in stage.rows]
    return [(e, v) for e, v in pairs if e is not None and v is not None]


def entropy_ceiling(facts: Facts, stage: Stage) -> float | None:
    """ln K of the stage, where the run says it for certain: its student's card, or the recipe of a DINO stage."""
    said = number(stage.student, "entropy_ceiling")
    if said is not None:
        return said
    method = stage.student.get("method") or at(facts.recipe, "train", "method")
    k = number(facts.recipe, "train", "dino", "head", "prototypes")
    return math.log(k) if stage.name == "train" and method in ("dino", "dinov2") and k and k > 1 else None


def _collapse_note(facts: Facts, stage: Stage) -> str:
    """Named, because a collapsed run can look calm: loss = ln K, or entropy at either end with KL at zero."""
    ceiling, entropy, kl = entropy_ceiling(facts, stage), _column(stage, "teacher_entropy"), _column(stage, "kl")
    if ceiling is None or not entropy or not kl:
        return ""
    h, distance = entropy[-1][1], kl[-1][1]
    if distance < 0.01 * ceiling and not (0.02 * ceiling < h < 0.98 * ceiling):
        high = h > ceiling / 2
        kind = "uniform, the teacher is not sharpened" if high else "one dominant dimension, nothing is centred"
        return para(
            f"This is collapse ({kind}): KL {distance:.3f}, teacher entropy {h:.2f} of ln K = {ceiling:.2f}.", "warn"
        )
    return para(
        f"At the end: teacher entropy {h:.2f} of ln K = {ceiling:.2f}, KL {distance:.3f}; no collapse by these two.",
        "note",
    )


def _summary(facts: Facts, stage: Stage) -> str:
    rows = stage.rows
    times = [t for r in rows if (t := number(r, "time")) is not None]
    speeds = sorted(v for _, v in _column(stage, "img_s"))
    last = number(rows[-1], "step") if rows else None
    seconds = times[-1] - times[0] if len(times) > 1 else None
    words = [
        str(stage.student.get("method") or "").upper()
        if stage.name != "distill"
        else f"teacher {_teacher(facts, stage)}",
        f"{last:,.0f} steps" if last is not None else "no steps logged",
        (f"{seconds:.0f} s" if seconds < _FAST_S else f"{seconds / 60:.1f} min") if seconds is not None else "",
        f"{speeds[len(speeds) // 2]:,.0f} images/s" if speeds else "",
        "" if stage.done else "not finished",
    ]
    return ", ".join(w for w in words if w)


def _teacher(facts: Facts, stage: Stage) -> str:
    return str(stage.student.get("teacher") or at(facts.recipe, "distill", "teacher") or "unknown")

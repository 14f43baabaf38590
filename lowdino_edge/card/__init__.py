"""MODEL_CARD.md, of a run and of each artifact: data, teacher, licences, protocol, figures, intended use, limits."""

from __future__ import annotations

from pathlib import Path

from lowdino_edge.card.artifact import artifact_card as artifact_card
from lowdino_edge.card.facts import (
    NOT_MEASURED,
    Facts,
    Place,
    at,
    distillation_verdict,
    licences,
    number,
    percent,
    protocol_text,
    read_facts,
)
from lowdino_edge.card.text import INTENDED_USE, LIMITS, bullets, count, md, table, unit
from lowdino_edge.run import write_text

_COMPARED = (
    "Artifacts were compared with the float network on the images that artifact.json names; latencies hold for the "
    "machine named."
)


def model_card(run_dir: Path) -> str:
    """MODEL_CARD.md of a run: data, teacher, licences, protocol, figures, intended use, limits."""
    facts = read_facts(run_dir)
    student = facts.student
    size = number(student, "preprocess", "image_size")
    parts = [
        f"# {md(facts.name)}",
        f"A {md(student.get('id', 'small'))} vision backbone, trained without labels by lowdino: an RGB image in, an "
        "embedding out. It has no classifier; compare embeddings (kNN), or train a small head on them.",
        "## Model",
        bullets(
            ("backbone", student.get("id")),
            ("parameters", count(number(student, "params"))),
            ("embedding", unit(number(student, "embed_dim"), "dimensions")),
            ("input", unit(size, "px, square, RGB in [0, 1]; mean and standard deviation are inside the network")),
            ("weights sha256", student.get("sha256")),
        ),
        "## Training",
        *_training(facts),
        md(distillation_verdict(facts)),
        "## Figures",
        *_figures(facts),
        "## Artifacts",
        *_artifacts(facts),
        "## Licences",
        bullets(*licences(facts)),
        "## Intended use",
        INTENDED_USE,
        "## Limits",
        "\n".join(f"- {limit}" for limit in (*LIMITS, _COMPARED)),
    ]
    return "\n\n".join(p for p in parts if p) + "\n"


def write_model_card(run_dir: Path) -> Path | None:
    """Writes MODEL_CARD.md into the run; returns its path. A comparison of models has none."""
    if read_facts(run_dir).is_comparison:
        return None
    path = run_dir / "MODEL_CARD.md"
    write_text(path, model_card(run_dir))
    return path


def _training(facts: Facts) -> list[str]:
    if not facts.stages:
        return [f"Training: {NOT_MEASURED}."]
    parts = []
    for stage in facts.stages:
        s = stage.student
        teacher = s.get("teacher")
        fingerprint = f" (weights {str(s['teacher_fingerprint'])[:12]})" if s.get("teacher_fingerprint") else ""
        parts.append(f"**{md(stage.name)}**" + ("" if stage.done else " (not finished)"))
        parts.append(
            bullets(
                ("method", s.get("method")),
                ("data", s.get("data") or at(facts.recipe, "data", "source")),
                ("data fingerprint", s.get("data_fingerprint")),
                ("teacher", f"{teacher}{fingerprint}" if teacher else None),
                ("epochs", s.get("epochs")),
                ("steps", count(number(s, "steps"))),
                ("seed", s.get("seed")),
            )
        )
    return parts


def _figures(facts: Facts) -> list[str]:
    if not facts.knn:
        return [f"kNN: {NOT_MEASURED}."]
    names = {"student": "this model", "pixels": "raw pixels", "untrained": "the same backbone, untrained"}
    rows = [f"- {md(names.get(who, who))}: {percent(number(r, 'top1'))} kNN top-1" for who, r in facts.knn.items()]
    first = facts.knn.get("student") or next(iter(facts.knn.values()))
    protocol = protocol_text(first)
    return ["\n".join(rows), md(protocol[0].upper() + protocol[1:]) + "."]


def _artifacts(facts: Facts) -> list[str]:
    if not facts.artifacts:
        return ["None exported."]
    places = facts.places
    head = ["artifact", "MB", "cosine to float", *(f"{what} on {p.name}" for p in places for what in ("kNN", "p50 ms"))]
    rows = []
    for card in facts.artifacts:
        name = f"{card.get('target')}-{card.get('scheme')}"
        size, cosine = number(card, "bytes"), number(card, "parity", "cosine_mean")
        cells = [
            name,
            "-" if size is None else f"{size / 1e6:.2f}",
            NOT_MEASURED if cosine is None else f"{cosine:.5f}",
        ]
        for place in places:
            row = next((r for r in place.rows if r.get("artifact") == name), {})
            p50 = None if row.get("emulated") else number(row, "latency_ms", "p50")
            cells += [percent(number(row, "knn_top1")), "-" if p50 is None else f"{p50:.2f}"]
        rows.append(cells)
    own = "Each artifact has a MODEL_CARD.md of its own: how to feed it, what of it was measured and how."
    has_own = any(facts.path.glob("artifacts/*/MODEL_CARD.md"))
    return [table(head, rows), *map(_where, places), *_knn_protocols(places), own if has_own else ""]


def _where(place: Place) -> str:
    """What a latency holds for: the machine and its threads."""
    cpu = at(place.document, "device", "cpu")
    threads = sorted({int(t) for r in place.rows if (t := number(r, "threads")) and not r.get("emulated")})
    on = f", {' or '.join(map(str, threads))} thread{'s' * (threads != [1])}" if threads else ""
    return f"Latency on {md(place.name)}: batch 1, {md(cpu or 'processor unknown')}{on}."


def _knn_protocols(places: list[Place]) -> list[str]:
    """The bank of a benchmark may be a part of the training split."""
    texts = dict.fromkeys(protocol_text(p.document) for p in places if at(p.document, "protocol"))
    return [md(f"kNN in this table: {text}") + "." for text in texts]

"""A student on disk: student.safetensors, and student.json, which says what it is and how to feed it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from timm.layers import resample_abs_pos_embed

from lowdino_edge.errors import UserError
from lowdino_edge.models.backbone import Student, build_student, head_widths, linear_head
from lowdino_edge.models.students import STUDENTS
from lowdino_edge.run import atomic_path, read_record, sha256, write_json
from lowdino_edge.types import Preprocess


def save_student(student: Student, path: Path, card: dict[str, Any]) -> None:
    """Writes the weights to `path` (safetensors) and, last, their card beside them (the same name, .json).

    The card holds id, params, embed_dim, licence, preprocess, sha256, and whatever `card` adds.
    """
    state = {k: v.detach().cpu().contiguous() for k, v in student.state_dict().items()}
    spec = STUDENTS.get(student.id)
    with atomic_path(path) as tmp:
        save_file(state, tmp)
        tmp.chmod(0o644)  # safetensors writes for the owner alone
        digest = sha256(tmp)
    write_json(
        path.with_suffix(".json"),
        {
            "id": student.id,
            "params": sum(p.numel() for p in student.parameters()),
            "embed_dim": student.embed_dim,
            "head": head_widths(student.head) if student.head is not None else None,
            "licence": spec.licence if spec else "see timm",
            "preprocess": student.preprocess.to_dict(),
            "sha256": digest,
            **card,
        },
    )


def load_student(path: str | Path, image_size: int | None = None) -> Student:
    """Reads what `save_student` wrote: a run directory or the .safetensors file. In eval mode.

    Args:
        image_size: another input size than the one it was trained at; position embeddings are interpolated.

    Raises:
        UserError: no such file, no card, weights that do not match the card's hash, a card of another network.
    """
    path = Path(path)
    file = path / "student.safetensors" if path.is_dir() else path
    if not file.is_file():
        raise UserError(f"no student at '{file}'", "name a finished run directory, or a student.safetensors")
    card_file = file.with_suffix(".json")
    if not card_file.is_file():
        raise UserError(f"'{file}' has no card '{card_file.name}' beside it", "copy both files of the run together")
    card = read_record(card_file, id=str, sha256=str, preprocess=dict)
    if sha256(file) != card["sha256"]:
        raise UserError(
            f"'{file}' is not what its card {card_file.name} says (sha256 differs)",
            "restore it from the run, or train again",
        )
    try:
        preprocess = Preprocess.from_dict(card["preprocess"])
    except ValueError as e:
        raise UserError(f"'{card_file}' has no valid 'preprocess': {e}", "copy the card of the same run") from None
    student = build_student(card["id"], image_size or preprocess.image_size, seed=0, warn=False)
    if image_size in (None, preprocess.image_size):
        student.preprocess = preprocess
    if card.get("head"):
        _check_head(card["head"], card_file)
        student = student.aligned(linear_head(student.embed_dim, card["head"]))
    _fill(student, file)
    return student.eval()


def _check_head(widths: Any, card_file: Path) -> None:
    if not isinstance(widths, list) or len(widths) > 8 or not all(type(w) is int and 1 <= w <= 65536 for w in widths):
        raise UserError(f"'{card_file}' has no valid 'head'", "copy the card of the same run")


def _fill(student: Student, file: Path) -> None:
    net: Any = student.net
    try:
        state = load_file(file)
        pos = state.get("net.pos_embed")
        if pos is not None and pos.shape != net.pos_embed.shape:
            grid = list(net.patch_embed.grid_size)
            state["net.pos_embed"] = resample_abs_pos_embed(pos, grid, num_prefix_tokens=net.num_prefix_tokens)
        student.load_state_dict(state)
    except (SafetensorError, RuntimeError) as e:
        reason = str(e).splitlines()[0]
        raise UserError(
            f"'{file}' does not hold a {student.id}: {reason}", "restore it from the run, or train again"
        ) from None

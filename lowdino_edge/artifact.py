"""An exported model on disk: `<dir>/{model file, artifact.json, golden.npz}`. No torch, no converter, no runtime.

The card (artifact.json) says what the file is, how to feed it and how it was proven. `Artifact.read` checks the file
against the card's sha256, so no native parser ever sees bytes that export did not write.
"""

from __future__ import annotations

import hashlib
import io
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from lowdino_edge import reading
from lowdino_edge.errors import UserError
from lowdino_edge.run import atomic_path, read_json, sha256, write_json
from lowdino_edge.types import Float, PathLike, Preprocess

CARD = "artifact.json"
GOLDEN = "golden.npz"
_AGAIN = "make it again with `lowdino export`"
_TEXT_KEYS = ("target", "scheme", "file", "sha256")
_OPTIONAL = ("parity", "delegation", "source", "origin", "proof", "calibration", "quantization", "knn", "toolchain")
_WIDEST = 1 << 16
_DICT_KEYS = ("input", "output", "preprocess")


@dataclass(frozen=True)
class Artifact:
    """One exported model, its bytes checked.

    Attributes:
        dir: the artifact directory.
        card: artifact.json, as cli.md lists its fields.
    """

    dir: Path
    card: dict[str, Any]

    @property
    def target(self) -> str:
        return str(self.card["target"])

    @property
    def scheme(self) -> str:
        return str(self.card["scheme"])

    @property
    def name(self) -> str:
        """`<target>-<scheme>`, as the directory is called inside a run."""
        return f"{self.target}-{self.scheme}"

    @property
    def file(self) -> Path:
        """The model file; a directory for Core ML's .mlpackage."""
        return self.dir / str(self.card["file"])

    @property
    def bytes(self) -> int:
        return int(self.card["bytes"])

    @property
    def embed_dim(self) -> int:
        return int(self.card["embed_dim"])

    @property
    def preprocess(self) -> Preprocess:
        return Preprocess.from_dict(self.card["preprocess"])

    def golden(self) -> dict[str, Float]:
        """What golden.npz holds: `input` (n, 3, H, W) RGB in [0, 1], `embedding` (n, D) that this file gives for it on
        its own runtime, `reference` (n, D) from the float network in PyTorch.

        Where nothing could run the file when it was exported (its parity is null) there is no `embedding`.
        """
        path = self.dir / GOLDEN
        try:
            content = path.read_bytes()
        except FileNotFoundError:
            raise UserError(f"no file '{path}'", _AGAIN) from None
        except OSError as e:
            raise UserError(f"'{path}' cannot be read: {e}", _AGAIN) from None
        expected = self.card.get("golden_sha256")
        if expected is not None and hashlib.sha256(content).hexdigest() != expected:
            raise UserError(f"'{path}' is not the one that was exported (sha256 differs)", f"restore it, or {_AGAIN}")
        unproven = (self.card.get("parity") or {}).get("cosine_mean", 0.0) is None
        keys = ("input", "reference") if unproven else ("input", "embedding", "reference")
        try:
            found = reading.arrays(io.BytesIO(content), keys)
            return {k: np.asarray(z, dtype=np.float32) for k, z in found.items()}
        except (ValueError, TypeError) as e:
            raise UserError(f"'{path}' is damaged: {e}", _AGAIN) from None

    @classmethod
    def read(cls, path: PathLike) -> Artifact:
        """Opens an artifact by its directory, its artifact.json or its model file.

        Raises:
            UserError: nothing there, a card that is missing, truncated or incomplete, a model file that is missing or
                whose sha256 is not the card's.
        """
        directory = directory_of(Path(path))
        card = read_json(directory / CARD)
        _check_card(card, directory / CARD)
        artifact = cls(directory, card)
        artifact.verify()
        return artifact

    def verify(self, copy: Path | None = None) -> None:
        """Compares the model file (or a copy of it, on its way to a device) with the card's sha256 and size;
        `UserError` when it is missing or another one."""
        file = copy or self.file
        if not (file.is_file() or file.is_dir()):
            raise UserError(f"the model file '{file}' is missing", _AGAIN)
        found, size = digest(file), size_bytes(file)
        if (found, size) != (self.card["sha256"], self.bytes):
            raise UserError(
                f"'{file}' is not the file that was exported: sha256 {found[:12]}..., {size} bytes; "
                f"artifact.json says {str(self.card['sha256'])[:12]}..., {self.bytes} bytes",
                f"restore the file, or {_AGAIN}",
            )


def digest(path: Path) -> str:
    """sha256 of a file, or of a directory's sorted relative paths and contents (an .mlpackage)."""
    if not path.is_dir():
        return sha256(path)
    h = hashlib.sha256()
    for name in _below(path):
        # what is no file (a link to a directory, or to nothing) counts by its name: an export writes none
        h.update(os.fsencode(name) + b"\0")
        h.update(bytes.fromhex(sha256(path / name)) if (path / name).is_file() else b"no file")
    return h.hexdigest()


def size_bytes(path: Path) -> int:
    """Bytes of a file, or of all files below a directory."""
    files = [path / name for name in _below(path)] if path.is_dir() else [path]
    return sum(f.stat().st_size for f in files if f.is_file())


def write_card(directory: Path, card: dict[str, Any]) -> Artifact:
    """Adds `sha256` and `bytes` of the model file to `card`, writes artifact.json; the last step of an export."""
    file = directory / card["file"]
    card = {**card, "sha256": digest(file), "bytes": size_bytes(file)}
    _check_card(card, directory / CARD)
    write_json(directory / CARD, card)
    return Artifact(directory, card)


def write_golden(directory: Path, *, inputs_NCHW: Float, embedding_ND: Float | None, reference_ND: Float) -> None:
    """Writes golden.npz: what a device must reproduce (`embedding`; None where nothing here can run the file) and what
    PyTorch says (`reference`)."""
    arrays: dict[str, Any] = {"input": inputs_NCHW, "embedding": embedding_ND, "reference": reference_ND}
    with atomic_path(directory / GOLDEN) as tmp, tmp.open("wb") as f:
        np.savez_compressed(f, **{k: v for k, v in arrays.items() if v is not None})


def is_artifact(path: PathLike) -> bool:
    """Whether `path` looks like an artifact (directory, card or model file), without reading it."""
    p = Path(path)
    return (p / CARD).is_file() or (p.exists() and (p.parent / CARD).is_file())


def directory_of(path: Path) -> Path:
    """The artifact directory that `path` names: itself, its card or its model file; anything else is refused."""
    if not path.exists():
        raise UserError(f"no artifact at '{path}'", "name an artifact directory, its artifact.json or its model file")
    if (path / CARD).is_file():
        return path
    if (path.parent / CARD).is_file():
        card = read_json(path.parent / CARD)
        if path.name in (CARD, card.get("file") if isinstance(card, dict) else None):
            return path.parent
        raise UserError(f"'{path}' is not the model file that '{path.parent / CARD}' describes", _AGAIN)
    raise UserError(f"no {CARD} with '{path}'", "name an artifact directory that `lowdino export` wrote")


def _check_card(card: Any, where: Path) -> None:
    """Refuses a card without the fields that reading needs, or whose file would lie outside its directory."""
    if not isinstance(card, dict):
        raise UserError(f"'{where}' is not an artifact card", _AGAIN)
    for key in (*_TEXT_KEYS, *_DICT_KEYS, "embed_dim", "bytes"):
        kind = str if key in _TEXT_KEYS else dict if key in _DICT_KEYS else int
        if not isinstance(card.get(key), kind):
            raise UserError(f"'{where}' has no valid '{key}'", _AGAIN)
    for key in _OPTIONAL:
        if not isinstance(card.get(key), dict | None):
            raise UserError(f"'{where}' has no valid '{key}'", _AGAIN)
    if not 1 <= card["embed_dim"] <= _WIDEST:
        raise UserError(f"'{where}' has no valid 'embed_dim'", _AGAIN)
    if Path(card["file"]).name != card["file"] or card["file"] in ("", ".", ".."):
        raise UserError(f"'{where}' names a file outside its directory: '{card['file']}'", _AGAIN)
    try:
        Preprocess.from_dict(card["preprocess"])
    except ValueError as e:
        raise UserError(f"'{where}' has no valid 'preprocess': {e}", _AGAIN) from None


def _below(path: Path) -> list[str]:
    """Everything below a directory but directories; links to them count as themselves."""
    return sorted(p.relative_to(path).as_posix() for p in path.rglob("*") if p.is_symlink() or not p.is_dir())

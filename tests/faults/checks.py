"""What must hold after a fault: whole files under final names, nothing lost, the same result after a resume."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from PIL import Image
from safetensors import safe_open

from lowdino_edge.artifact import Artifact

# Keys of JSON documents that no two runs have in common: times, and what the machine was doing.
_DIFFERS = {
    "time", "seconds", "img_s", "latency_ms", "load_ms", "argv", "load_average", "thermal", "peak_rss_bytes", "notes",
    "export_seconds", "cost_ms", "warmup", "images_per_second", "created", "throughput", "date", "steady",
}  # fmt: skip
_ON_ITS_WAY = (".part", ".part.tag")  # of a shard; continued or begun anew
_DRAWN = (".html", ".md", ".svg", ".png")  # with times in them, or drawn from what is compared


def is_final(path: Path, root: Path) -> bool:
    """Whether a reader would take it for a result: no part of its name is hidden, and it is no download on its way."""
    hidden = any(part.startswith(".") for part in path.relative_to(root).parts)
    return not hidden and not path.name.endswith(_ON_ITS_WAY)


def finals(root: Path) -> list[Path]:
    return sorted(p for p in root.rglob("*") if p.is_file() and is_final(p, root))


def damage(root: Path) -> list[str]:
    """Every file under a final name below `root` that is not whole, and every artifact that is not what it says."""
    found = []
    for path in finals(root):
        try:
            _look(path)
        except Exception as e:  # any parser's
            found.append(f"half-written: {path.relative_to(root)}: {type(e).__name__}: {str(e)[:120]}")
    return found


def _look(path: Path) -> None:
    """Raises where the file is not whole."""
    match path.suffix:
        case ".json":
            json.loads(path.read_text(encoding="utf-8"))
            if path.name == "artifact.json":
                Artifact.read(path.parent).golden()
        case ".jsonl":  # appended to: the last line may be torn
            for line in path.read_text(encoding="utf-8").splitlines()[:-1]:
                json.loads(line)
        case ".yaml":
            assert isinstance(yaml.safe_load(path.read_text(encoding="utf-8")), dict), "no mapping"
        case ".safetensors":
            with safe_open(path, "np") as f:
                assert [f.get_tensor(k) for k in f.keys()], "no tensors"  # noqa: SIM118
        case ".npz":
            with np.load(path, allow_pickle=False) as z:
                assert [z[k] for k in z.files], "no arrays"
        case ".npy":
            np.load(path, allow_pickle=False)
        case ".png":
            Image.open(path).load()
        case ".html":
            assert path.read_text(encoding="utf-8").rstrip().endswith("</html>"), "it breaks off"
        case ".svg":
            assert path.read_text(encoding="utf-8").rstrip().endswith("</svg>"), "it breaks off"
        case _:
            assert path.stat().st_size or path.name.startswith("."), "empty"


def outcome(root: Path) -> dict[str, str]:
    """Name -> what is the same in every run with the same settings; the files under final names below `root`. An index
    of shards that have only just come is not kept, so it may be there or not."""
    names = {p.relative_to(root).as_posix(): p for p in finals(root)}
    return {name: _gist(p) for name, p in names.items() if "kept/index/" not in name}


def _gist(path: Path) -> str:
    if path.name in ("DONE", "env.json", "metrics.csv") or path.suffix in _DRAWN:
        return "there"
    if path.suffix == ".json":
        return _digest(json.dumps(_same(json.loads(path.read_text())), sort_keys=True).encode())
    if path.suffix == ".jsonl":
        rows = [_same(json.loads(line)) for line in path.read_text().splitlines()]
        return _digest(json.dumps(rows, sort_keys=True).encode())
    if path.suffix == ".npz":  # a zip notes the time of its making
        with np.load(path, allow_pickle=False) as z:
            return _digest(b"".join(k.encode() + z[k].tobytes() for k in sorted(z.files)))
    return _digest(path.read_bytes())


def _same(value: Any) -> Any:
    if isinstance(value, dict):
        return {k: _same(v) for k, v in value.items() if k not in _DIFFERS}
    return [_same(v) for v in value] if isinstance(value, list) else value


def _digest(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()[:16]


def differences(expected: dict[str, str], found: dict[str, str]) -> list[str]:
    """What a resumed run made other than an undisturbed one."""
    return [
        *(f"lost: {n}" for n in sorted(expected.keys() - found.keys())),
        *(f"stray: {n}" for n in sorted(found.keys() - expected.keys())),
        *(f"other: {n}" for n in sorted(expected.keys() & found.keys()) if expected[n] != found[n]),
    ]


def litter(root: Path) -> list[str]:
    """What is left behind below `root`: anything hidden in `cwd/` but the locks of caches, half a download,
    anything in `tmp/` but the empty folder that torch makes when it is imported."""
    found = [p for p in (root / "cwd").rglob(".*") if p.name != ".lock"]
    found += [p for p in root.rglob("*") if p.name.endswith(_ON_ITS_WAY)]
    found += [p for p in (root / "tmp").iterdir() if not p.name.startswith("torchinductor_") or any(p.rglob("*"))]
    return sorted(p.relative_to(root).as_posix() for p in found)


def traceback_in(said: str) -> bool:
    return "Traceback (most recent call last)" in said or "a fault of lowdino, not yours" in said

"""A million made-up images, as a folder and as WebDataset shards: seconds and memory from nothing to the first batch.

    python tests/bench/large_set.py [--n 1000000] [--dir DIR]

The images are small JPEG files of their own, 1,000 classes, all in the training split. A fresh process each time lists
them and reads its first batch of 256 at 64 px: first without an index, then, some seconds later, twice with it. Seconds
count from the process's start, with the import of torch in them. The page cache of the system is warm. Needs about
6 KB of disk for each image. Prints a table and, last, one JSON document.
"""

from __future__ import annotations

import argparse
import io
import json
import os
import subprocess
import sys
import tarfile
import tempfile
import time
from pathlib import Path
from typing import Any

BATCH, SIZE, CLASSES, SHARDS, VARIANTS = 256, 64, 1000, 128, 100
LIMIT_S, LIMIT_MB = 20.0, 1000.0


def measure(source: str) -> None:
    """In a process of its own: one line of JSON."""
    began = time.perf_counter()
    import numpy as np
    import torch

    from lowdino_edge.config import parse_recipe
    from lowdino_edge.memory import peak_memory
    from lowdino_edge.train.feed import Feed
    from lowdino_edge.types import Preprocess
    from lowdino_edge.workspace import Workspace

    imported = time.perf_counter()
    work = Workspace(parse_recipe({"name": "large", "data": {"source": source}, "device": "cpu"}))
    images = work.images("train")
    listed = time.perf_counter()
    pixels = work.train_pixels(Preprocess(SIZE, 1.0))
    batch = Feed(pixels, BATCH, 0, "cpu").batch(0, lambda u8, generator, at: [u8])  # type: ignore[arg-type]
    done = time.perf_counter()
    assert batch.views[0].shape == (BATCH, 3, SIZE, SIZE) and len(torch.unique(batch.index_B)) == BATCH
    assert len(images.classes) == CLASSES and len(np.unique(images.labels)) == CLASSES
    found = {"images": len(images), "import_s": imported - began, "list_s": listed - imported}
    found |= {"first_batch_s": done - listed, "total_s": done - began, "peak_mb": peak_memory("cpu") / 1e6}
    found |= {"cpu_s": time.process_time()}
    print(json.dumps(found | {"fingerprint": images.fingerprint}), flush=True)
    os._exit(0)  # what is read ahead is not waited for


def variants() -> list[bytes]:
    import numpy as np
    from PIL import Image

    made = []
    for i in range(VARIANTS):
        out = io.BytesIO()
        u8 = np.random.default_rng(i).integers(0, 256, (6, 6, 3), dtype=np.uint8)
        Image.fromarray(u8).resize((SIZE, SIZE)).save(out, "JPEG", quality=80)
        made.append(out.getvalue())
    return made


def make_folder(root: Path, n: int, images: list[bytes]) -> None:
    for c in range(CLASSES):
        for split in ("train", "val"):
            folder = root / split / f"class_{c:04d}"
            folder.mkdir(parents=True)
            for i in range(c, n if split == "train" else CLASSES, CLASSES):
                (folder / f"{i:08d}.jpg").write_bytes(images[i % VARIANTS])


def make_shards(root: Path, n: int, images: list[bytes]) -> None:
    headers: dict[int, bytes] = {}  # by size; only name and checksum are another for each member

    def member(name: str, raw: bytes) -> bytes:
        size = len(raw)
        if size not in headers:
            info = tarfile.TarInfo("0" * len(name))
            info.size = size
            headers[size] = info.tobuf(tarfile.USTAR_FORMAT)
        old, new = headers[size], name.encode()
        total = int(old[148:154], 8) + sum(new) - len(new) * ord("0")
        header = new + old[len(new) : 148] + b"%06o\0 " % total + old[156:]
        return header + raw + bytes(-size % tarfile.BLOCKSIZE)

    root.mkdir()
    each = -(-n // SHARDS)
    for split, count in (("train", n), ("val", CLASSES)):
        for k, first in enumerate(range(0, count, each)):
            with (root / f"{split}-{k:06d}.tar").open("wb") as f:
                for i in range(first, min(count, first + each)):
                    f.write(member(f"{i:08d}.jpg", images[i % VARIANTS]))
                    f.write(member(f"{i:08d}.cls", str(i % CLASSES).encode()))
                f.write(bytes(2 * tarfile.BLOCKSIZE))


def run(source: Path, cache: Path) -> dict[str, Any]:
    environment = {**os.environ, "LOWDINO_CACHE": str(cache)}
    command = [sys.executable, __file__, "--measure", str(source)]
    done = subprocess.run(command, env=environment, stdout=subprocess.PIPE, text=True, check=True)
    return dict(json.loads(done.stdout.splitlines()[-1]))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--n", type=int, default=1_000_000)
    parser.add_argument("--dir", type=Path, help="keeps what is made here, and uses what is there")
    parser.add_argument("--measure", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.measure:
        measure(args.measure)
        return
    with tempfile.TemporaryDirectory(prefix="large-set-") as tmp:
        root, images = args.dir or Path(tmp), variants()
        rows = []
        for kind, make in (("folder", make_folder), ("shards", make_shards)):
            source = root / f"{kind}-{args.n}"
            if not source.is_dir():
                began = time.perf_counter()
                make(source, args.n, images)
                print(f"made {source} in {time.perf_counter() - began:.0f} s", file=sys.stderr)
                time.sleep(3)  # what changed a moment ago is not indexed
            cache = Path(tmp) / f"cache-{kind}"
            for index in ("none", "warm", "warm"):
                rows.append({"source": kind, "index": index, **run(source, cache)})
                r = rows[-1]
                r["index_mb"] = sum(f.stat().st_size for f in cache.rglob("*") if f.is_file()) / 1e6
                print(
                    f"{kind:8} index {index:5} list {r['list_s']:7.2f} s  first batch {r['first_batch_s']:6.2f} s  "
                    f"in all {r['total_s']:7.2f} s (CPU {r['cpu_s']:6.2f} s)"
                    f"  peak {r['peak_mb']:6.0f} MB  index {r['index_mb']:.0f} MB",
                    flush=True,
                )
        assert all(len({r["fingerprint"] for r in rows if r["source"] == k}) == 1 for k in ("folder", "shards"))
    warm = [r for r in rows if r["index"] == "warm"]
    worst_s, worst_mb = max(r["total_s"] for r in warm), max(r["peak_mb"] for r in rows)
    from lowdino_edge.run import environment

    keep = [{k: round(v, 3) if isinstance(v, float) else v for k, v in r.items()} for r in rows]
    print(json.dumps({
        "name": "large_set", "images": args.n, "value": round(worst_s, 2), "unit": "s, warm, worst", "limit": LIMIT_S,
        "peak_mb": round(worst_mb), "limit_mb": LIMIT_MB, "holds": worst_s < LIMIT_S and worst_mb < LIMIT_MB,
        "rows": keep, "machine": {k: environment()[k] for k in ("cpu", "cores", "python")},
    }))  # fmt: skip


if __name__ == "__main__":
    main()

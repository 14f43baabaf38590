"""Images per second into shards: `lowdino shard` against webdataset's own writer, in turns, with the same shard size.

    python tests/bench/pack_vs_webdataset.py --data DIR [--rounds 5] [--per-shard 500]

DIR has splits of its own. Ours reads files on two threads and syncs every shard to the disk; theirs does neither.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import sys
import tempfile
import time
from pathlib import Path

sys.path[:0] = [str(Path(__file__).parents[2]), str(Path(__file__).parent)]

from shards_vs_folder import pack as theirs  # noqa: E402

from lowdino_edge.data.datasets import open_set  # noqa: E402
from lowdino_edge.data.packing import pack, plan  # noqa: E402
from lowdino_edge.run import environment  # noqa: E402


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--per-shard", type=int, default=500)
    args = parser.parse_args()
    n, rates = 0, dict[str, list[float]](ours=[], theirs=[])
    for k in range(args.rounds + 1):  # the first is not counted
        for side in ("ours", "theirs") if k % 2 else ("theirs", "ours"):
            with tempfile.TemporaryDirectory(prefix="pack-") as tmp:
                began = time.perf_counter()
                if side == "ours":
                    packing = plan(open_set(args.data, "train"), open_set(args.data, "test"), args.per_shard)
                    pack(packing, Path(tmp, "out"))
                    n = packing.images
                else:
                    theirs(args.data, Path(tmp), args.per_shard)
                seconds = time.perf_counter() - began
            if k:
                rates[side].append(n / seconds)
    ratios = [a / b for a, b in zip(rates["ours"], rates["theirs"], strict=True)]
    medians = {k: round(statistics.median(v), 1) for k, v in rates.items()}
    told = environment()
    print(json.dumps({
        "name": "packing shards against webdataset", "ratio": round(statistics.median(ratios), 3), **medians,
        "unit": "images/s", "ratios": [round(r, 3) for r in ratios], "images": n, "per_shard": args.per_shard,
        "machine": f"{told['cpu']}, {os.cpu_count()} cores",
    }))  # fmt: skip


if __name__ == "__main__":
    main()

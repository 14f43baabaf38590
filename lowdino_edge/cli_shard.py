"""`lowdino shard`, a command of `cli`."""

from __future__ import annotations

from lowdino_edge import options as o
from lowdino_edge.present import emit


def shard(
    data: o.Source,
    out: o.Shards,
    per_shard: o.PerShard = None,
    workers: o.Workers = None,
    set_: o.Set = None,
    dry_run: o.DryRun = False,
    json_: o.Json = False,
    quiet: o.Quiet = False,
    debug: o.Debug = False,
) -> None:
    """Any source of images as WebDataset shards."""
    from lowdino_edge.config import load_recipe

    loaded = load_recipe(None, set_ or (), flags=o.flags("", locals()))
    from lowdino_edge import api

    made = api.shard(loaded, out, per_shard=per_shard, dry_run=dry_run)
    counts = ", ".join(f"{n} {word}" for word, n in made["images"].items())
    text = f"{made['shards']} shards of {made['per_shard']} images ({counts}), {made['gigabytes']:.2f} GB"
    emit(made, text if dry_run else f"{text}\n{made['out']}", "" if dry_run else f"lowdino train --data {made['out']}")

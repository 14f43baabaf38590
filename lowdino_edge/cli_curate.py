"""`lowdino curate`, a command of `cli`."""

from __future__ import annotations

from pathlib import Path

from lowdino_edge import options as o
from lowdino_edge.errors import UserError
from lowdino_edge.present import emit, settings


def curate(
    data: o.Data = None,
    out: o.Out = None,
    against: o.Against = None,
    seed_data: o.SeedData = None,
    per_query: o.PerQuery = None,
    clusters: o.Clusters = None,
    per_cluster: o.PerCluster = None,
    total: o.Total = None,
    encoder: o.CurateEncoder = None,
    cache: o.CacheDir = None,
    hash_distance: o.HashDistance = None,
    similarity: o.Similarity = None,
    image_size: o.ImageSize = None,
    workers: o.Workers = None,
    recipe: o.RecipeFile = None,
    set_: o.Set = None,
    seed: o.Seed = None,
    device: o.Device = None,
    resume: o.Resume = False,
    dry_run: o.DryRun = False,
    json_: o.Json = False,
    quiet: o.Quiet = False,
    debug: o.Debug = False,
) -> None:
    """Duplicates out, images of evaluation sets out, images like a seed set in: a list and a report."""
    from lowdino_edge.config import load_recipe

    given = locals()
    keys = ("against", "seed_data", "per_query", "clusters", "per_cluster", "total", "encoder", "cache")
    flags = {f"curate.{k}": given[k] for k in (*keys, "hash_distance", "similarity")}
    common = o.flags("", {k: given[k] for k in ("data", "workers", "image_size", "seed", "device")})
    loaded = load_recipe(recipe, set_ or (), base={"curate": {}}, flags={**flags, **common})
    if data is None and "source" not in loaded.data.model_fields_set:
        raise UserError("no images to curate", "name some with --data SRC")
    settings(loaded, "data", "curate")
    from lowdino_edge import api

    result = api.curate(loaded, out or Path("curated") / loaded.name, resume=resume, dry_run=dry_run)
    if dry_run:
        return emit(result, "\n".join(f"{k}: {v}" for k, v in result.items()))
    c, where = result["counts"], result["out"]
    removed = f"{c['copy']} exact copies, {c['near']} near duplicates, {c['leak']} in evaluation sets"
    found = "" if c["found"] is None else f"; {c['found']} found by retrieval"
    text = f"{c['images']} images, {c['removed']} removed ({removed}){found}\n{where}/report.html"
    then = f"lowdino train --data {where}/curated.csv" if result["usable"] else ""
    emit(result, text, then)

"""`lowdino curate` on small sets: every planted copy is found, nothing else goes, and a kill costs nothing."""

from __future__ import annotations

import csv
import json
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from curate_plants import KINDS, plant
from PIL import Image

from lowdino_edge import curation
from lowdino_edge.config import Recipe, load_recipe
from lowdino_edge.data.datasets import open_set
from lowdino_edge.data.imageset import ImageSet
from lowdino_edge.data.synthetic import SyntheticImages
from lowdino_edge.errors import UserError


def recipe(source: Path | str, *sets: str) -> Recipe:
    return load_recipe(None, sets, base={"curate": {"cache": "none"}}, flags={"data.source": str(source)})


def rows(file: Path) -> list[dict[str, str]]:
    with file.open(encoding="utf-8", newline="") as f:
        return list(csv.DictReader(f))


def pictures(n: int, seed: int = 0, size: int = 96) -> list[Image.Image]:
    made = SyntheticImages("train", n, size, seed)
    return [Image.fromarray(made.image(i)) for i in range(n)]


@pytest.fixture(scope="module")
def planted(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """48 images, and a copy of each of the first 24; a000.png and a000_resized.png are one picture."""
    folder, rng = tmp_path_factory.mktemp("planted"), np.random.default_rng(3)
    for i, image in enumerate(pictures(48)):
        image.save(folder / f"a{i:03d}.png")
        if i < 24:
            kind = KINDS[i % len(KINDS)]
            plant(image, kind, rng).save(folder / f"a{i:03d}_{kind}.png")
    return folder


def test_every_kind_of_copy_is_found_and_nothing_else_goes(planted: Path, tmp_path: Path) -> None:
    before = {p.name: p.read_bytes() for p in planted.iterdir()}
    report = curation.curate(recipe(planted), tmp_path / "out")
    pairs = [(Path(r["path"]).name, Path(r["kept"]).name) for r in rows(tmp_path / "out" / "removed.csv")]
    assert all(a[:4] == b[:4] for a, b in pairs), pairs
    assert len(pairs) == 24 == report["counts"]["near"]
    assert {p.name: p.read_bytes() for p in planted.iterdir()} == before
    kept = [Path(r["path"]).name for r in rows(tmp_path / "out" / "curated.csv")]
    assert sorted(kept) == sorted(set(before) - {a for a, _ in pairs}) and len(kept) == 48
    for name in ("report.html", "DONE", "sheets/near_closest.png"):
        assert (tmp_path / "out" / name).stat().st_size > 0
    assert not (tmp_path / "out" / "work").exists()


def test_copies_to_the_pixel_are_told_as_such_and_of_equal_pictures_the_first_stays(tmp_path: Path) -> None:
    data = tmp_path / "data"
    data.mkdir()
    for i, image in enumerate(pictures(4)):
        image.save(data / f"{i}.png")
    image.save(data / "z.bmp")  # the same pixels in another file
    report = curation.curate(recipe(data), tmp_path / "out")
    (row,) = rows(tmp_path / "out" / "removed.csv")
    assert (Path(row["path"]).name, Path(row["kept"]).name, row["reason"]) == ("z.bmp", "3.png", "copy")
    assert report["counts"]["copy"] == 1


def split_set(folder: Path, n: int = 6) -> Path:
    """train/ and val/ of n images each, labelled; a copy of val/'s first lies in train/."""
    images = pictures(2 * n)
    for i, image in enumerate(images):
        file = folder / ("train" if i < n else "val") / "ab"[i % 2] / f"{i}.png"
        file.parent.mkdir(parents=True, exist_ok=True)
        image.save(file)
    plant(images[n], "mirrored", np.random.default_rng(0)).save(folder / "train" / "a" / "leak.png")
    return folder


def test_what_is_in_a_test_split_or_in_another_evaluation_set_goes(tmp_path: Path) -> None:
    data, other = split_set(tmp_path / "data"), tmp_path / "other"
    other.mkdir()
    rng = np.random.default_rng(0)
    plant(Image.open(data / "train" / "b" / "1.png"), "cropped", rng).save(other / "x.png")
    pictures(3, seed=9)[2].save(other / "y.png")
    report = curation.curate(recipe(data, f"curate.against=[{other}]"), tmp_path / "out")
    gone = {Path(r["path"]).name: (Path(r["kept"]).name, r["reason"]) for r in rows(tmp_path / "out" / "removed.csv")}
    assert gone == {"leak.png": ("6.png", "leak"), "1.png": ("x.png", "leak")}
    assert [s["images"] for s in report["sets"]] == [7, 6, 2]
    curated = rows(tmp_path / "out" / "curated.csv")
    assert [r["split"] for r in curated] == ["train"] * 5 + ["test"] * 6
    assert all(Path(r["path"]).is_file() and r["label"] in "ab" for r in curated)


def test_images_that_are_only_alike_all_stay(tmp_path: Path) -> None:
    """The same scene with another object in it, the same picture in another colour, plain surfaces."""
    data = tmp_path / "data"
    data.mkdir()
    scene = np.asarray(pictures(1, size=160)[0])
    scene.setflags(write=False)
    other = scene.copy()
    other[60:100, 60:100] = np.asarray(pictures(2, seed=4, size=40)[1])
    recoloured = scene[:, :, [2, 0, 1]]
    for name, u8 in {"scene": scene, "other": other, "recoloured": recoloured}.items():
        Image.fromarray(np.ascontiguousarray(u8)).save(data / f"{name}.png")
    for level in (40, 120, 121):
        Image.new("RGB", (160, 160), (level, level, level)).save(data / f"plain{level}.png")
    assert curation.curate(recipe(data), tmp_path / "out")["counts"]["removed"] == 0


def test_broken_images_are_left_out_and_counted(planted: Path, tmp_path: Path) -> None:
    data = tmp_path / "data"
    data.mkdir()
    for name in ("a000.png", "a001.png", "a001_mirrored.png"):
        (data / name).write_bytes((planted / name).read_bytes())
    (data / "broken.png").write_bytes(b"\x89PNG\r\n\x1a\n but no more")
    report = curation.curate(recipe(data), tmp_path / "out")
    assert (report["counts"]["broken"], report["counts"]["near"], report["counts"]["kept"]) == (1, 1, 2)


@pytest.mark.parametrize("n", [0, 1])
def test_nothing_to_compare_is_a_user_error_and_leaves_no_directory(tmp_path: Path, n: int) -> None:
    data = tmp_path / "data"
    data.mkdir()
    for i, image in enumerate(pictures(n)):
        image.save(data / f"{i}.png")
    with pytest.raises(UserError):
        curation.curate(recipe(data), tmp_path / "out")
    assert not (tmp_path / "out").exists()


def colour_teacher(folder: Path) -> str:
    """An .onnx file whose embedding is the mean colour of sixteen cells."""
    onnx = pytest.importorskip("onnx")
    from onnx import TensorProto, helper

    nodes = [
        helper.make_node("AveragePool", ["x"], ["p"], kernel_shape=[8, 8], strides=[8, 8]),
        helper.make_node("Flatten", ["p"], ["z"]),
    ]
    x = helper.make_tensor_value_info("x", TensorProto.FLOAT, ["b", 3, 32, 32])
    z = helper.make_tensor_value_info("z", TensorProto.FLOAT, ["b", 48])
    graph = helper.make_graph(nodes, "cells", [x], [z])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    onnx.save(model, str(folder / "cells.onnx"))
    return str(folder / "cells.onnx")


def coloured(folder: Path, n: int = 40) -> Path:
    """Pictures of four colours, ten of each, by name."""
    folder.mkdir()
    tints = {"red": (2.0, 0.4, 0.4), "green": (0.4, 2.0, 0.4), "blue": (0.4, 0.4, 2.0), "grey": (1.0, 1.0, 1.0)}
    for i, image in enumerate(pictures(n, size=64)):
        name, tint = list(tints.items())[i % 4]
        u8 = np.clip(np.asarray(image).mean(axis=2, keepdims=True) * np.array(tint), 0, 255).astype(np.uint8)
        Image.fromarray(u8).save(folder / f"{name}_{i:02d}.png")
    return folder


def test_retrieval_by_query_brings_what_is_like_the_seeds(tmp_path: Path) -> None:
    data, seeds, teacher = coloured(tmp_path / "data"), tmp_path / "seeds", colour_teacher(tmp_path)
    seeds.mkdir()
    for name in ("red_00.png", "red_04.png"):
        plant(Image.open(data / name), "brightened", np.random.default_rng(1)).save(seeds / name)
    wanted = (f"curate.encoder={teacher}", f"curate.seed_data={seeds}", "curate.per_query=6", "curate.total=8")
    report = curation.curate(recipe(data, *wanted), tmp_path / "out")
    found = rows(tmp_path / "out" / "found.csv")
    names = [Path(r["path"]).name for r in found]
    assert len(names) == report["counts"]["found"] <= 8 and len(set(names)) == len(names)
    assert sum(n.startswith("red") for n in names) >= 6, names
    assert {r["seed"] for r in found[:2]} == {"red_00.png", "red_04.png"}  # the nearest of each comes first
    assert sorted(Path(r["path"]).name for r in rows(tmp_path / "out" / "curated.csv")) == sorted(names)
    assert (tmp_path / "out" / "sheets" / "found.png").is_file()


def test_retrieval_by_clusters_draws_from_those_of_the_seeds(tmp_path: Path) -> None:
    data, teacher = coloured(tmp_path / "data"), colour_teacher(tmp_path)
    clusters = (f"curate.encoder={teacher}", "curate.clusters=4", "curate.per_cluster=3", "curate.similarity=1.0")
    report = curation.curate(recipe(data, *clusters), tmp_path / "all")
    found = rows(tmp_path / "all" / "found.csv")
    counts = np.unique([r["cluster"] for r in found], return_counts=True)[1]
    assert len(counts) == 4 and counts.max() <= 3 and report["counts"]["found"] == len(found)
    again = curation.curate(recipe(data, *clusters), tmp_path / "again")
    assert rows(tmp_path / "again" / "found.csv") == found and again["counts"] == report["counts"]


def counted(images: ImageSet, seen: list[str]) -> ImageSet:
    read = images.read

    def reading(i: int) -> Any:
        seen.append(images.ids[i])
        return read(i)

    images.read = reading
    return images


def test_with_a_teacher_cache_only_images_of_likely_pairs_are_opened(
    planted: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from lowdino_edge.distill.cache import build_cache
    from lowdino_edge.models.teacher import load_teacher

    teacher = colour_teacher(tmp_path)
    build_cache(load_teacher(teacher), open_set(planted, "train"), tmp_path / "cache", workers=1)
    seen: list[str] = []

    def opening(*args: Any, **kwargs: Any) -> ImageSet:
        return counted(open_set(*args, **kwargs), seen)

    monkeypatch.setattr("lowdino_edge.data.datasets.open_set", opening)
    wanted = (f"curate.encoder={teacher}", f"curate.cache={tmp_path / 'cache'}", "curate.similarity=0.999")
    report = curation.curate(recipe(planted, *wanted), tmp_path / "out")
    pairs = [(Path(r["path"]).name, Path(r["kept"]).name) for r in rows(tmp_path / "out" / "removed.csv")]
    assert pairs and all(a[:4] == b[:4] for a, b in pairs)
    assert report["protocol"]["cache"] and report["counts"]["opened_again"] < 72
    # each is opened for its thumbnail, and again for the contact sheet where it went
    drawn = {Path(n).name for pair in pairs for n in pair}
    assert len(seen) <= report["counts"]["opened_again"] + 2 * len(drawn)


KILLED = """
import sys
from pathlib import Path
from lowdino_edge import curation
from lowdino_edge.config import load_recipe
recipe = load_recipe(None, (), base={"curate": {"cache": "none"}}, flags={"data.source": sys.argv[1]})
curation.scan.PART = 8
curation.curate(recipe, Path(sys.argv[2]), resume=len(sys.argv) > 3)
"""


def test_a_kill_at_any_moment_costs_nothing(planted: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    out = tmp_path / "killed"
    child = subprocess.Popen([sys.executable, "-c", KILLED, str(planted), str(out)], stderr=subprocess.DEVNULL)
    deadline = time.monotonic() + 120
    while len(list(out.glob("work/pool/part_*.npz"))) < 3 and child.poll() is None and time.monotonic() < deadline:
        time.sleep(0.002)
    child.send_signal(signal.SIGKILL)
    assert child.wait() in (-signal.SIGKILL, 0)
    assert not (out / "DONE").exists() or child.returncode == 0
    whole = {p: p.stat().st_mtime_ns for p in out.glob("work/pool/part_*.npz")}
    if whole:  # one of them is damaged meanwhile: it alone is made again
        victim = min(whole)
        victim.write_bytes(victim.read_bytes()[:-20])
    monkeypatch.setattr(curation.scan, "PART", 8)
    report = curation.curate(recipe(planted), out, resume=True)
    fresh = curation.curate(recipe(planted), tmp_path / "fresh")
    assert rows(out / "removed.csv") == rows(tmp_path / "fresh" / "removed.csv")
    assert report["counts"] == fresh["counts"]


def test_parts_that_changed_places_or_were_damaged_are_made_again(
    planted: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(curation.scan, "PART", 8)
    images, wanted = open_set(str(planted), "train"), curation.scan.Wanted(None)
    first = curation.scan.scan(images, tmp_path, wanted)
    want = {name: first.column(name) for name in wanted.names}
    a, b, c = (tmp_path / f"part_{k:05d}.npz" for k in range(3))
    a.rename(tmp_path / "other")
    b.rename(a)
    (tmp_path / "other").rename(b)
    c.write_bytes(c.read_bytes()[:-20])
    again = curation.scan.scan(images, tmp_path, wanted)
    told = capsys.readouterr().err
    assert told.count("of other images") == 2 and told.count("damaged") == 1
    for name, values in want.items():
        np.testing.assert_array_equal(again.column(name), values)


def test_resuming_asks_for_the_same_settings_and_starting_for_an_empty_directory(planted: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    done = curation.curate(recipe(planted), out)
    assert curation.curate(recipe(planted), out, resume=True) == done
    with pytest.raises(UserError, match="settings differ"):
        curation.curate(recipe(planted, "curate.hash_distance=10"), out, resume=True)
    with pytest.raises(UserError, match="already exists"):
        curation.curate(recipe(planted), out)


def test_without_faiss_small_sets_are_searched_by_numpy_alike_and_large_ones_say_what_to_install(
    planted: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("faiss")
    curation.curate(recipe(planted), tmp_path / "faiss")
    monkeypatch.setitem(sys.modules, "faiss", None)
    report = curation.curate(recipe(planted), tmp_path / "numpy")
    assert report["protocol"]["search"] == "numpy, exact"
    gone = [[r["path"] for r in rows(tmp_path / n / "removed.csv")] for n in ("faiss", "numpy")]
    assert gone[0] == gone[1]
    monkeypatch.setattr("lowdino_edge.curate.index.NUMPY_ROWS", 10)
    with pytest.raises(UserError) as e:
        curation.curate(recipe(planted), tmp_path / "more")
    assert "lowdino-edge[curate]" in e.value.hint


def test_the_command_and_a_dry_run(planted: Path, tmp_path: Path) -> None:
    command = [sys.executable, "-m", "lowdino_edge.cli", "curate", "--data", str(planted), "--out", str(tmp_path / "o")]
    dry = subprocess.run([*command, "--dry-run", "--json"], capture_output=True, text=True, check=True)
    assert json.loads(dry.stdout.splitlines()[-1])["to_read"] == 72 and not (tmp_path / "o").exists()
    done = subprocess.run([*command, "--json"], capture_output=True, text=True, check=True)
    assert len(done.stdout.splitlines()) == 1
    told = json.loads(done.stdout)
    assert told["counts"]["removed"] == 24 and "curated.csv" in done.stderr


@pytest.mark.parametrize(
    ("override", "said"),
    [
        ("curate.per_query=3", "seed_data"),
        ("curate.clusters=3", "per_cluster"),
        ("curate.seed_data=x", "encoder"),
        ("curate.same.detial=1", "detial"),
    ],
)
def test_settings_that_do_not_go_together_are_refused(override: str, said: str) -> None:
    with pytest.raises(UserError) as e:
        recipe("x", override)
    assert said in e.value.message + e.value.hint

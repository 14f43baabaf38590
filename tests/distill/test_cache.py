"""The teacher cache: right rows, kept through kills and full disks, and nothing damaged or foreign ever handed out.

The teacher is a small real network; the images are arrays. Kills and full disks happen to real processes.
"""

from __future__ import annotations

import json
import shutil
import signal
import subprocess
import sys
import textwrap
import time
import tracemalloc
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from lowdino_edge.data.datasets import BrokenImage, ImageSet, open_set
from lowdino_edge.distill.cache import Estimate, TargetCache, build_cache
from lowdino_edge.distill.layout import DISK_FULL, FORMAT, Plan, keys_of, write_npy
from lowdino_edge.errors import UserError
from lowdino_edge.run import read_json, sha256, write_json
from lowdino_edge.types import Preprocess


class PoolTeacher(nn.Module):
    """4x4 average pooling and a fixed linear map: different images, different embeddings."""

    def __init__(self, seed: int = 0, dim: int = 12, size: int = 16, delay: float = 0.0) -> None:
        super().__init__()
        g = torch.Generator().manual_seed(seed)
        self.register_buffer("weight", torch.randn(48, dim, generator=g))
        self.id, self.embed_dim, self.licence = "pool/tiny", dim, "none"
        self.preprocess = Preprocess(size)
        self.fingerprint = f"pool-{seed}-{dim}"
        self.delay, self.seen = delay, 0

    def forward(self, x_BCHW: Tensor) -> Tensor:
        assert x_BCHW.dtype == torch.float32 and x_BCHW.shape[-1] == self.preprocess.image_size
        time.sleep(self.delay)
        self.seen += len(x_BCHW)
        return torch.nn.functional.adaptive_avg_pool2d(x_BCHW, 4).flatten(1) @ self.weight


def pictures(n: int, *, seed: int = 0, broken: tuple[int, ...] = (), name: str = "made up") -> ImageSet:
    u8_NHWC = np.random.default_rng(seed).integers(0, 256, (n, 16, 16, 3), dtype=np.uint8)

    def read(i: int) -> np.ndarray:
        if i in broken:
            raise BrokenImage(f"img_{i:04d}.png", "truncated")
        return u8_NHWC[i]

    return ImageSet(
        name=name, ids=[f"img_{i:04d}.png" for i in range(n)], labels=np.full(n, -1), classes=[],
        fingerprint=f"made-{n}-{seed}", read=read, masks=None,
    )  # fmt: skip


def expected(teacher: PoolTeacher, images: ImageSet, i: int) -> np.ndarray:
    x = torch.from_numpy(np.asarray(images.read(i)).copy()).permute(2, 0, 1)[None].float() / 255
    return teacher(x)[0].numpy()


def build(tmp: Path, teacher: PoolTeacher, images: ImageSet, **more: object) -> TargetCache:
    return build_cache(teacher, images, tmp, batch_size=4, shard_rows=8, **more)  # type: ignore[arg-type, call-overload]


def test_every_row_is_the_embedding_of_its_own_image(tmp_path: Path) -> None:
    teacher, images = PoolTeacher(), pictures(37)
    cache = build(tmp_path, teacher, images)
    assert len(cache) == 37 and cache.embed_dim == 12
    order = np.random.default_rng(1).permutation(37)
    got = cache.rows([images.ids[i] for i in order])
    assert got.dtype == np.float32
    want = np.stack([expected(teacher, images, int(i)) for i in order])
    np.testing.assert_allclose(got, want, atol=2e-3 * np.abs(want).max())  # float16 keeps 11 bits
    assert cache.path.name.startswith("tiny__made-up__") and len(cache.path.name.split("__")[2]) == 8


def test_a_second_build_computes_nothing_and_a_subset_or_other_teacher_gets_a_cache_of_its_own(tmp_path: Path) -> None:
    images = pictures(20)
    first = build(tmp_path, PoolTeacher(), images)
    again = PoolTeacher()
    assert build(tmp_path, again, images).path == first.path and again.seen == 0
    other = build(tmp_path, PoolTeacher(seed=1), images)
    assert other.path != first.path
    assert not np.allclose(other.rows(images.ids), first.rows(images.ids))
    sized = PoolTeacher()
    sized.preprocess = Preprocess(12, 0.75)
    assert build(tmp_path, sized, images).path not in (first.path, other.path)
    fewer = replace(images, ids=images.ids[::-1])  # same fingerprint, another order: never the same directory
    assert build(tmp_path, PoolTeacher(), fewer).path != first.path


def test_broken_images_are_named_and_have_no_row(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    images = pictures(220, broken=(5, 130))
    cache = build(tmp_path, PoolTeacher(), images)
    assert cache.broken == ["img_0005.png", "img_0130.png"] and len(cache) == 218
    assert "img_0005.png" in capsys.readouterr().err
    good = [n for n in images.ids if n not in cache.broken]
    rows = cache.rows(good)
    np.testing.assert_allclose(rows[5], expected(PoolTeacher(), images, 6), atol=0.02)
    with pytest.raises(UserError, match=r"no target for image 'img_0130.png'"):
        cache.rows(["img_0001.png", "img_0130.png"])


def test_more_than_one_percent_broken_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"3 of 200 images are broken.*img_0019"):
        build(tmp_path, PoolTeacher(), pictures(200, broken=(3, 8, 19)))


def test_no_row_is_served_for_another_image(tmp_path: Path) -> None:
    """Files are shuffled, deleted, renamed and swapped on disk; every row that is served belongs to the pixels."""
    from PIL import Image

    folder = tmp_path / "photos"
    folder.mkdir()
    rng = np.random.default_rng(0)
    for i in range(24):
        Image.fromarray(rng.integers(0, 256, (16, 16, 3), dtype=np.uint8)).save(folder / f"{i:02d}.png")
    teacher = PoolTeacher()

    def check() -> Path:
        images = open_set(str(folder), "train")
        cache = build(tmp_path / "cache", teacher, images)
        for i, name in enumerate(images.ids):
            np.testing.assert_allclose(cache.rows([name])[0], expected(teacher, images, i), atol=0.02)
        return cache.path

    first = check()
    (folder / "03.png").unlink()
    deleted = check()
    (folder / "07.png").rename(folder / "99.png")
    renamed = check()
    (folder / "01.png").rename(folder / "x.png")
    (folder / "02.png").rename(folder / "01.png")
    (folder / "x.png").rename(folder / "02.png")
    swapped = check()
    assert len({first, deleted, renamed, swapped}) == 4


def test_lookup_by_id_survives_any_order(tmp_path: Path) -> None:
    images = pictures(30)
    cache = build(tmp_path, PoolTeacher(), images)
    straight = cache.rows(images.ids)
    shuffled = np.random.default_rng(3).permutation(30)
    np.testing.assert_array_equal(cache.rows([images.ids[i] for i in shuffled]), straight[shuffled])
    np.testing.assert_array_equal(cache.rows([images.ids[4]] * 3), straight[[4, 4, 4]])
    with pytest.raises(UserError, match=r"no target for image 'renamed\.png'"):
        cache.rows(["renamed.png"])


def test_a_foreign_cache_names_both_values(tmp_path: Path) -> None:
    images = pictures(12)
    mine = build(tmp_path, PoolTeacher(), images).path
    other = tmp_path / Plan.of(PoolTeacher(seed=5), images).directory  # type: ignore[arg-type]
    shutil.copytree(mine, other)
    with pytest.raises(UserError, match=r"teacher_fingerprint pool-0-12, not pool-5-12"):
        build(tmp_path, PoolTeacher(seed=5), images)
    (other / "manifest.json").unlink()
    with pytest.raises(UserError, match=r"teacher_fingerprint pool-0-12, not pool-5-12"):
        build(tmp_path, PoolTeacher(seed=5), images)
    shutil.rmtree(other)
    other.mkdir()
    (other / "holiday.jpg").write_bytes(b"mine")
    with pytest.raises(UserError, match="is no teacher cache"):
        build(tmp_path, PoolTeacher(seed=5), images)
    assert (other / "holiday.jpg").exists()


@pytest.mark.parametrize("damage", ["truncate", "flip", "swap", "delete"])
def test_a_damaged_shard_is_named_never_used_and_made_anew(tmp_path: Path, damage: str) -> None:
    images = pictures(32)
    cache = build(tmp_path, PoolTeacher(), images)
    want, shard = cache.rows(images.ids), cache.path / "shard_00001.npy"
    data = bytearray(shard.read_bytes())
    if damage == "truncate":
        shard.write_bytes(data[:-10])
    elif damage == "flip":
        data[-7] ^= 4
        shard.write_bytes(data)
    elif damage == "swap":
        other = cache.path / "shard_00002.npy"
        shard.write_bytes(other.read_bytes())
        other.write_bytes(data)
    else:
        shard.unlink()
    with pytest.raises(UserError, match=r"shard_0000[12]\.npy"):
        opened = TargetCache.open(cache.path)
        opened.rows(images.ids[:8])  # shard 0 is sound
        opened.rows(images.ids[8:16])
    for name in ("shard_00001.npy", "shard_00002.npy") if damage == "swap" else ("shard_00001.npy",):
        (cache.path / name).unlink(missing_ok=True)  # what the hint says
    teacher = PoolTeacher()
    np.testing.assert_array_equal(build(tmp_path, teacher, images).rows(images.ids), want)
    assert teacher.seen == (16 if damage == "swap" else 8)


def test_damaged_keys_and_manifest_are_named(tmp_path: Path) -> None:
    images = pictures(10)
    path = build(tmp_path, PoolTeacher(), images).path
    keys = bytearray((path / "keys.npy").read_bytes())
    keys[-1] ^= 1
    (path / "keys.npy").write_bytes(keys)
    with pytest.raises(UserError, match=r"keys\.npy.*checksum"):
        TargetCache.open(path).rows(images.ids)
    (path / "manifest.json").write_text("{}")
    with pytest.raises(UserError, match=r"manifest\.json"):
        TargetCache.open(path)
    (path / "manifest.json").unlink()
    with pytest.raises(UserError, match="no finished teacher cache"):
        TargetCache.open(path)
    assert len(build(tmp_path, PoolTeacher(), images).rows(images.ids)) == 10


CHILD = """
import sys
sys.path.insert(0, {here!r})
from pathlib import Path
from test_cache import PoolTeacher, build, pictures
{before}
teacher = PoolTeacher(delay={delay})
build(Path({root!r}), teacher, pictures(64))
print("finished", teacher.seen)
"""


def child(root: Path, *, delay: float = 0.0, before: str = "") -> subprocess.Popen[str]:
    here = str(Path(__file__).parent)
    code = CHILD.format(here=here, root=str(root), delay=delay, before=textwrap.dedent(before))
    return subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def test_kill_9_loses_at_most_one_shard(tmp_path: Path) -> None:
    process = child(tmp_path, delay=0.05)
    deadline = time.monotonic() + 60
    while len(list(tmp_path.glob("*/shard_*.json"))) < 3:
        assert process.poll() is None and time.monotonic() < deadline, process.stderr and process.stderr.read()
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    done = len(list(tmp_path.glob("*/shard_*.json")))
    assert 3 <= done < 8 and not list(tmp_path.glob("*/manifest.json"))
    (cache_dir,) = tmp_path.iterdir()
    (cache_dir / ".shard_00007.npy.1.tmp").write_bytes(b"half")  # what a kill inside a write leaves
    with pytest.raises(UserError, match="no finished"):
        TargetCache.open(cache_dir)
    teacher, images = PoolTeacher(), pictures(64)
    cache = build(tmp_path, teacher, images)
    assert teacher.seen == 64 - 8 * done
    whole = build(tmp_path / "fresh", PoolTeacher(), images)
    np.testing.assert_array_equal(cache.rows(images.ids), whole.rows(images.ids))
    assert not list(cache_dir.glob("*.tmp")) and not list(cache_dir.glob(".*.tmp"))


def test_a_damaged_shard_of_an_unfinished_cache_is_named_and_computed_again(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    images = pictures(24)
    cache = build(tmp_path, PoolTeacher(), images)
    want, shard = cache.rows(images.ids), cache.path / "shard_00001.npy"
    (cache.path / "manifest.json").unlink()
    shard.write_bytes(shard.read_bytes()[:-1] + b"!")
    teacher = PoolTeacher()
    np.testing.assert_array_equal(build(tmp_path, teacher, images).rows(images.ids), want)
    assert teacher.seen == 8 and "shard_00001.npy" in capsys.readouterr().err


@pytest.mark.skipif(sys.platform == "win32", reason="needs RLIMIT_FSIZE")
def test_no_space_left_is_a_user_error_and_the_cache_goes_on(tmp_path: Path) -> None:
    """The kernel refuses to write past 250 bytes a file: plan.json is there already, no shard fits."""
    images = pictures(64)
    path = tmp_path / Plan.of(PoolTeacher(), images, 8).directory  # type: ignore[arg-type]
    write_json(path / "plan.json", asdict(Plan.of(PoolTeacher(), images, 8)))  # type: ignore[arg-type]
    process = child(tmp_path, before="import resource\nresource.setrlimit(resource.RLIMIT_FSIZE, (250, 250))")
    out, err = process.communicate(timeout=60)
    assert process.returncode == 1 and "finished" not in out
    assert "UserError: the disk is full: 0 of 8 shards" in err and "it continues" in err
    assert sorted(f.name for f in path.iterdir()) == [".lock", "plan.json"]
    assert len(build(tmp_path, PoolTeacher(), images)) == 64


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
def test_enospc_is_told_by_the_write_itself(tmp_path: Path) -> None:
    with pytest.raises(OSError) as e, Path("/dev/full").open("wb", buffering=0) as f:
        f.write(b"x")
    assert e.value.errno in DISK_FULL


def test_swapped_shards_of_an_unfinished_cache_are_computed_again(tmp_path: Path) -> None:
    images = pictures(24)
    cache = build(tmp_path, PoolTeacher(), images)
    want, path = cache.rows(images.ids), cache.path
    (path / "manifest.json").unlink()
    for suffix in (".npy", ".json"):
        one, two = path / f"shard_00000{suffix}", path / f"shard_00001{suffix}"
        one.rename(path / "x")
        two.rename(one)
        (path / "x").rename(two)
    np.testing.assert_array_equal(build(tmp_path, PoolTeacher(), images).rows(images.ids), want)


def test_a_cache_that_cannot_fit_is_refused_before_the_work(tmp_path: Path) -> None:
    teacher = PoolTeacher()
    teacher.embed_dim = 10**12  # no disk holds it
    with pytest.raises(UserError, match=r"GB free, the rest of the cache takes 1\.6e\+04 GB"):
        build(tmp_path, teacher, pictures(8))
    assert teacher.seen == 0


def test_a_directory_that_cannot_be_made_is_a_user_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("mine")
    with pytest.raises(UserError, match="cannot write"):
        build(tmp_path / "file", PoolTeacher(), pictures(8))
    assert (tmp_path / "file").read_text() == "mine"


def test_two_processes_share_the_work(tmp_path: Path) -> None:
    seen = []
    for process in (child(tmp_path, delay=0.2), child(tmp_path, delay=0.2)):
        out, err = process.communicate(timeout=60)
        assert process.returncode == 0 and "finished" in out, err
        seen.append(int(out.split()[-1]))
    assert sum(seen) == 64 and min(seen) > 0
    (cache_dir,) = tmp_path.iterdir()
    images = pictures(64)
    np.testing.assert_allclose(
        TargetCache.open(cache_dir).rows(images.ids)[9], expected(PoolTeacher(), images, 9), atol=0.02
    )


def test_dry_run_measures_and_writes_nothing(tmp_path: Path) -> None:
    estimate = build_cache(PoolTeacher(delay=0.01), pictures(500), tmp_path / "c", batch_size=10, dry_run=True)  # type: ignore[call-overload]
    assert isinstance(estimate, Estimate) and not (tmp_path / "c").exists()
    told = estimate.describe()
    assert told["images"] == 500 and told["gigabytes"] == pytest.approx(500 * 12 * 2 / 1e9)
    assert 10 < told["images_per_second"] <= 1000  # 10 images in 10 ms at best
    assert told["hours"] == pytest.approx(500 / told["images_per_second"] / 3600, rel=0.05, abs=1e-4)


def test_targets_that_are_not_finite_are_refused(tmp_path: Path) -> None:
    teacher = PoolTeacher()
    teacher.weight *= 1e5
    with pytest.raises(UserError, match=r"no finite float16 target for 'img_000\d.png'"):
        build(tmp_path, teacher, pictures(8))


def test_two_images_of_one_id_are_refused(tmp_path: Path) -> None:
    images = pictures(8)
    with pytest.raises(UserError, match="same id"):
        build(tmp_path, PoolTeacher(), replace(images, ids=["a.png"] * 8))


def test_memory_is_flat_in_a_million_rows(tmp_path: Path) -> None:
    """A made-up cache of a million rows: the index costs 16 bytes a row, the rows themselves stay on disk."""
    n, dim, shard_rows = 1_000_000, 32, 62_500
    plan = Plan(FORMAT, "t", "t", {}, "d", "d", "i", n, dim, shard_rows)
    shards, tile = [], np.arange(shard_rows, dtype=np.float32)[:, None, None].repeat(dim, 2).astype(np.float16)
    for k in range(n // shard_rows):
        file = tmp_path / f"shard_{k:05d}.npy"
        write_npy(file, tile + np.float16(k) if k == 3 else tile)
        told = {"file": file.name, "bytes": file.stat().st_size, "sha256": sha256(file)}
        shards.append({"rows": shard_rows, "files": {"": told}})
    ids = [str(i) for i in range(n)]
    write_npy(tmp_path / "keys.npy", keys_of(ids))
    keys = {"keys.npy": sha256(tmp_path / "keys.npy")}
    manifest = {"plan": asdict(plan), "shards": shards, "sha256": keys, "broken": []}
    write_json(tmp_path / "manifest.json", manifest)
    wanted = [ids[i] for i in np.random.default_rng(0).integers(0, n, 256)]
    tracemalloc.start()
    cache = TargetCache.open(tmp_path)
    rows = cache.rows(wanted)
    held, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert rows.shape == (256, dim)
    local = [int(w) % shard_rows for w in wanted]
    assert rows[0, 0] == np.float16(np.float16(local[0]) + (3 if int(wanted[0]) // shard_rows == 3 else 0))
    assert held < 20e6 and peak < 60e6  # the rows are 64 MB, and would be 768 MB at DINOv2's width


def test_the_plan_on_disk_is_plain_json(tmp_path: Path) -> None:
    path = build(tmp_path, PoolTeacher(), pictures(10)).path
    manifest = read_json(path / "manifest.json")
    assert manifest["plan"] == json.loads((path / "plan.json").read_text())
    assert [s["rows"] for s in manifest["shards"]] == [8, 2]

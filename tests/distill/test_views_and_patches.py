"""What a cache keeps beyond one embedding an image: recorded views that the student sees again, and patches."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from test_cache import PoolTeacher, pictures
from torch import Tensor

from lowdino_edge.config import DistillConfig
from lowdino_edge.data.pixels import to_square
from lowdino_edge.data.views import Views
from lowdino_edge.distill.cache import TargetCache, build_cache
from lowdino_edge.distill.encode import TeacherPass
from lowdino_edge.distill.layout import Look
from lowdino_edge.distill.live import LiveTargets
from lowdino_edge.distill.patches import PatchCode
from lowdino_edge.errors import UserError
from lowdino_edge.methods.base import Batch
from lowdino_edge.methods.distill import Distill, recorded_views
from lowdino_edge.models.backbone import build_student
from lowdino_edge.settings import ViewConfig
from lowdino_edge.types import At, Preprocess, Progress

VIEWS = ViewConfig(count=1, scale=(0.3, 1.0), blur=0.3)


class GridTeacher(PoolTeacher):
    """It also says something about each quarter of the image."""

    def with_patches(self, x_BCHW: Tensor) -> tuple[Tensor, Tensor]:
        cells_BCgg = torch.nn.functional.adaptive_avg_pool2d(x_BCHW, 2)
        return self(x_BCHW), torch.cat([cells_BCgg.flatten(2).mT, cells_BCgg.flatten(2).mT ** 2], dim=2)

    def grid(self) -> tuple[int, int]:
        return 2, 6


def build(root: Path, look: Look, teacher: PoolTeacher | None = None, n: int = 20) -> TargetCache:
    return build_cache(teacher or GridTeacher(), pictures(n), root, batch_size=4, shard_rows=8, look=look)  # type: ignore[call-overload]


def test_the_student_sees_the_very_crops_the_teacher_saw(tmp_path: Path) -> None:
    cache, images = build(tmp_path, Look(3, VIEWS, seed=1)), pictures(20)
    rows = cache.locate(images.ids)
    square = torch.from_numpy(np.stack([to_square(images.read(i), Preprocess(18, 1.0)) for i in range(20)]))
    for view in range(3):
        x_BCHW = Views(VIEWS, 16).apply(square, cache.take_params(rows, view))
        said = GridTeacher()(x_BCHW).numpy()
        np.testing.assert_allclose(cache.take(rows, view), said, atol=0.01)
        assert np.abs(cache.take(rows, (view + 1) % 3) - said).max() > 0.3


def test_what_is_drawn_depends_on_seed_image_and_view_alone(tmp_path: Path) -> None:
    one = build(tmp_path / "a", Look(2, VIEWS, seed=1))
    other = build(tmp_path / "b", Look(2, VIEWS, seed=1), GridTeacher(seed=9))
    again = build_cache(GridTeacher(), pictures(20), tmp_path / "c", batch_size=7, shard_rows=5, look=Look(2, VIEWS, 1))  # type: ignore[call-overload]
    ids = pictures(20).ids
    first = one.take_params(one.locate(ids), 1)
    for cache in (other, again):
        assert all(torch.equal(v, cache.take_params(cache.locate(ids), 1)[k]) for k, v in first.items())
    assert not torch.equal(first["x"], one.take_params(one.locate(ids), 0)["x"])
    assert one.path.name != build(tmp_path / "a", Look(2, VIEWS, seed=2)).path.name
    assert one.path.name != build(tmp_path / "a", Look()).path.name


@pytest.mark.parametrize(("patches", "kept"), [("int8", 6), ("pca64", 6)])
def test_patches_come_back_within_a_step(tmp_path: Path, patches: str, kept: int) -> None:
    cache, images = build(tmp_path, Look(patches=patches)), pictures(20)  # type: ignore[arg-type]
    assert cache.patches == (kept, 2)
    assert cache.describe()["patch_variance_kept"] == pytest.approx(1, abs=1e-3)
    x_BCHW = torch.from_numpy(np.stack([images.read(i) for i in range(20)])).permute(0, 3, 1, 2).float() / 255
    _, want_BPD = GridTeacher().with_patches(x_BCHW)
    centred = want_BPD - want_BPD.mean((0, 1))
    np.testing.assert_allclose(cache.take_patches(cache.locate(images.ids)), centred.numpy(), atol=0.01)
    assert cache.plan.gigabytes == pytest.approx(20 * (2 * 12 + 4 * 6) / 1e9)


def test_principal_components_keep_what_varies_most() -> None:
    rng = np.random.default_rng(0)
    basis = np.linalg.qr(rng.normal(size=(10, 10)))[0]
    x_ND = (rng.normal(size=(500, 10)) * np.array([5, 3, *[0.01] * 8])) @ basis.T + 7
    code = PatchCode.fit(x_ND.astype(np.float32), 2)
    assert code.explained > 0.999 and code.basis_DS is not None
    kept = code.unpack(code.pack(x_ND[None].astype(np.float32)))[0]
    back = kept @ code.basis_DS.T + code.mean_D
    assert np.abs(back - x_ND).max() < 0.2
    assert np.sqrt(np.mean((back - x_ND) ** 2)) < 0.1


@pytest.mark.parametrize("kind", ["views", "patches"])
@pytest.mark.parametrize("damage", ["flip", "swap"])
def test_damaged_views_and_patches_are_named_never_used(tmp_path: Path, kind: str, damage: str) -> None:
    cache = build(tmp_path, Look(2, VIEWS, patches="int8"))
    one, two = (cache.path / f"shard_0000{k}.{kind}.npy" for k in (0, 1))
    data = bytearray(one.read_bytes())
    if damage == "flip":
        data[-3] ^= 16
        one.write_bytes(data)
    else:
        one.write_bytes(two.read_bytes())
        two.write_bytes(data)
    opened = TargetCache.open(cache.path)
    with pytest.raises(UserError, match=rf"shard_00000\.{kind}\.npy"):
        (opened.take_params if kind == "views" else opened.take_patches)(np.arange(4), 0)


def test_a_teacher_without_patches_is_named(tmp_path: Path) -> None:
    with pytest.raises(AttributeError):
        build(tmp_path, Look(patches="int8"), PoolTeacher())


@pytest.mark.parametrize(
    "look", [Look(), Look(2, VIEWS, 3), Look(2, VIEWS, 3, "int8")], ids=["clean", "views", "patches"]
)
def test_live_teaching_gives_the_same_loss(tmp_path: Path, look: Look) -> None:
    """The same views, targets and losses to the last bit of float16."""
    images = pictures(24)
    losses = {"kl": 1.0, "cosine": 0.5, **({"patch": 1.0} if look.patches != "none" else {})}
    cfg = DistillConfig.model_validate({"prototypes": 4, "losses": losses, "views": VIEWS.model_dump()})
    u8_NCHW = torch.from_numpy(np.stack([images.read(i) for i in range(24)])).permute(0, 3, 1, 2).contiguous()
    found = []
    for targets in (
        build_cache(GridTeacher(), images, tmp_path, batch_size=5, look=look),  # type: ignore[call-overload]
        LiveTargets(TeacherPass(GridTeacher(), images, 8, "cpu", 1, look)),  # type: ignore[arg-type]
    ):
        method = Distill(build_student("nano", 16, seed=0), cfg, targets=[targets], ids=images.ids, seed=0).eval()
        index = np.array([3, 1, 17, 8, 20])
        for step in (0, 1):
            views = method.views()(u8_NCHW[index], torch.Generator().manual_seed(5), At(index, step))
            out = method.step(Batch(views, torch.from_numpy(index)), Progress(step, 2, 1))
            found.append(float(out["loss"].detach()))
    assert found[:2] == pytest.approx(found[2:], rel=1e-3)
    assert found[0] != pytest.approx(found[1], rel=1e-3) or not look.views


def test_epochs_take_the_recorded_views_in_turn() -> None:
    assert [recorded_views(epoch, 2, 5) for epoch in range(3)] == [[0, 1], [2, 3], [4, 0]]


def test_an_image_that_live_teaching_cannot_read_is_named() -> None:
    images = pictures(6, broken=(2,))
    targets = LiveTargets(TeacherPass(PoolTeacher(), images, 4, "cpu", 1, Look()))  # type: ignore[arg-type]
    with pytest.raises(UserError, match=r"img_0002\.png"):
        targets.take(np.array([1, 2]))
    with pytest.raises(UserError, match=r"no image 'other\.png'"):
        targets.locate(["other.png"])

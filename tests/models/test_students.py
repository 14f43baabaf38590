"""The contract of every student: it is what its row says, trains, maps, and exports."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from lowdino_edge import api
from lowdino_edge.config import load_recipe
from lowdino_edge.errors import UserError
from lowdino_edge.models import backbone
from lowdino_edge.models.backbone import build_student, count_macs
from lowdino_edge.models.nano import NanoNet
from lowdino_edge.models.student_file import load_student, save_student
from lowdino_edge.models.students import PARAM_LIMIT, STUDENTS
from lowdino_edge.workspace import Workspace


def images(n: int, size: int) -> torch.Tensor:
    return torch.rand(n, 3, size, size, generator=torch.Generator().manual_seed(n))


def test_the_tables_import_no_torch():
    code = (
        "import sys, lowdino_edge.models.students, lowdino_edge.models.teachers;"
        "sys.exit(bool({'torch', 'timm', 'safetensors'} & sys.modules.keys()))"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_table_covers_the_families_and_holds_the_limit():
    assert len(STUDENTS) >= 12
    assert {row.family for row in STUDENTS.values()} == {"cnn", "hybrid", "vit"}
    assert all(key == row.id and row.params < PARAM_LIMIT for key, row in STUDENTS.items())
    assert STUDENTS["resnet5m"].params == 4_956_480
    json.dumps([row.to_dict() for row in STUDENTS.values()])


@pytest.mark.parametrize("id", STUDENTS)
def test_student_is_what_its_row_says(id: str):
    row = STUDENTS[id]
    student = build_student(id, seed=0).eval()
    assert sum(p.numel() for p in student.parameters()) == row.params
    assert count_macs(student, row.image_size) == pytest.approx(row.macs, rel=1e-3)
    assert student.preprocess.image_size == row.image_size
    with torch.no_grad():
        z_1D = student(images(1, row.image_size))
        map_BChw = student.feature_map(images(1, row.image_size))
    assert z_1D.shape == (1, row.embed_dim) and student.embed_dim == row.embed_dim
    assert torch.isfinite(z_1D).all()
    assert map_BChw.ndim == 4 and map_BChw.shape[2] == map_BChw.shape[3] > 1


@pytest.mark.parametrize("id", STUDENTS)
def test_an_image_embeds_alike_alone_and_in_a_batch(id: str):
    student = build_student(id, 64, seed=0).eval()
    x_BCHW = images(8, 64)
    with torch.no_grad():
        z_BD = student(x_BCHW)
        torch.testing.assert_close(student(x_BCHW[:1]), z_BD[:1], rtol=1e-3, atol=1e-4)
    # even untrained it tells images apart: nothing is stuck at a constant
    assert not torch.allclose(z_BD[0], z_BD[1])


@pytest.mark.parametrize("id", STUDENTS)
def test_student_trains(id: str):
    size = 32 if id == "nano" else 64
    student = build_student(id, size, seed=0).train()
    student(images(2, size)).square().sum().backward()
    missing = [name for name, p in student.named_parameters() if p.grad is None]
    assert not missing


@pytest.mark.parametrize("id", STUDENTS)
def test_student_is_exportable(id: str):
    row = STUDENTS[id]
    student = build_student(id, seed=0).eval()
    x_BCHW = images(1, row.image_size)
    program = torch.export.export(student, (x_BCHW,), strict=False)
    targets = {str(node.target) for node in program.graph.nodes}
    assert not any("bicubic" in t or "ceil" in t for t in targets), "converters fail on these"
    with torch.no_grad():
        torch.testing.assert_close(program.module()(x_BCHW), student(x_BCHW), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("id", ["nano", "mobilenetv4_conv_small", "mobilevit_s", "vit_tiny_d10"])
def test_normalisation_is_inside(id: str):
    student = build_student(id, 64, seed=0).eval()
    x_BCHW = images(2, 64)
    mean, std = student.mean.view(1, 3, 1, 1), student.std.view(1, 3, 1, 1)
    with torch.no_grad():
        torch.testing.assert_close(student(x_BCHW), student.net((x_BCHW - mean) / std), rtol=1e-3, atol=1e-4)
    assert not {"mean", "std", "scale", "shift"} & {name for name, _ in student.named_parameters()}
    expected = [0.0] * 3 if id == "mobilevit_s" else [0.485, 0.456, 0.406]
    assert student.mean.tolist() == pytest.approx(expected)


def test_seed_decides_the_weights_and_leaves_the_generator_alone():
    torch.manual_seed(7)
    state = torch.get_rng_state()
    a, b, c = (build_student("nano", seed=s) for s in (0, 0, 1))
    assert torch.equal(torch.get_rng_state(), state)
    for key, value in a.state_dict().items():
        assert torch.equal(value, b.state_dict()[key])
    assert not torch.equal(a.net.stem[0].weight, c.net.stem[0].weight)
    d = build_student("nano")
    assert not torch.equal(torch.get_rng_state(), state), "without a seed it draws from torch's generator"
    assert not torch.equal(a.net.stem[0].weight, d.net.stem[0].weight)


@pytest.mark.parametrize(
    ("id", "size"),
    [("mobilevit_s", 33), ("mobilevit_xs", 100), ("fastvit_t8", 50), ("efficientvit_b0", 48), ("vit_tiny_d10", 32),
     ("nano", 16), ("nano", 9), ("nano", 17), ("resnet5m", 32), ("convnext_atto", 32)],
)  # fmt: skip
def test_other_image_sizes(id: str, size: int):
    student = build_student(id, size, seed=0).eval()
    assert student.preprocess.image_size == size
    with torch.no_grad():
        assert student(images(2, size)).shape == (2, student.embed_dim)


@pytest.mark.parametrize(("id", "size", "works"), [("vit_tiny_d10", 50, "48 or 64"), ("convnext_atto", 16, "32")])
def test_image_size_it_cannot_take(id: str, size: int, works: str):
    with pytest.raises(UserError, match=f"{size} px") as e:
        build_student(id, size)
    assert works in e.value.hint
    for word in works.split(" or "):
        build_student(id, int(word))


@given(st.integers(8, 70), st.integers(8, 70))
def test_nano_map_is_an_eighth_rounded_up(h: int, w: int):
    net = NanoNet((8, 8, 8), (0, 1, 1)).eval()
    with torch.no_grad():
        y_BChw = net.forward_features(torch.zeros(1, 3, h, w))
    # the stem's 4x4 kernel rounds down, the two stages up
    assert tuple(y_BChw.shape[2:]) == tuple(-(-(n // 2) // 4) for n in (h, w))


def test_crop_vit_takes_other_crops_and_is_timms_network():
    student = build_student("vit_tiny_d10", 64, seed=0).eval()
    with torch.no_grad():
        z = student(images(2, 64))
        assert student(images(2, 32)).shape == z.shape
        torch.testing.assert_close(student(images(2, 64)), z)
        plain = backbone.timm_network("vit_tiny_patch16_224", 64, depth=10).eval()
        plain.load_state_dict(student.net.state_dict())
        torch.testing.assert_close(plain(student.normalise(images(2, 64))), z)


def test_vit_feature_map_is_its_patch_tokens():
    student = build_student("vit_tiny_d10", 64, seed=0).eval()
    with torch.no_grad():
        tokens_BND = student.net.forward_features(student.normalise(images(1, 64)))
        map_BDhw = student.feature_map(images(1, 64))
    assert map_BDhw.shape == (1, 192, 4, 4)
    torch.testing.assert_close(map_BDhw[0, :, 1, 2], tokens_BND[0, 1 + 1 * 4 + 2])


def test_any_timm_name(capsys: pytest.CaptureFixture[str]):
    assert build_student("timm:mobilenetv3_small_050", 64, seed=0).embed_dim == 1024
    assert capsys.readouterr().err == ""
    assert build_student("resnet18", 64, seed=0).id == "resnet18"
    assert "11.18M" in capsys.readouterr().err


def test_a_baseline_trains_on_and_is_not_exported(tmp_path: Path) -> None:
    file = tmp_path / "student.safetensors"
    save_student(build_student("timm:resnet18", 32, seed=0), file, {})
    settings = ["student.id=timm:resnet18", f"student.weights={file}", "device=cpu"]
    assert Workspace(load_recipe(None, settings)).new_student().id == "resnet18"
    with pytest.raises(UserError, match=r"11\.18M parameters, what ships has under 5M"):
        api.export(str(file), targets=["onnx"], schemes=["none"], out=tmp_path / "artifacts")
    assert not (tmp_path / "artifacts").exists()


def test_unknown_student_offers_the_nearest():
    with pytest.raises(UserError, match="mobilevit_z") as e:
        build_student("mobilevit_z")
    assert "mobilevit_s" in e.value.hint
    with pytest.raises(UserError) as e:
        build_student("qqqqqqqq")
    assert "nano" in e.value.hint and len(e.value.hint) < 500


# ---- files


@pytest.mark.parametrize("id", ["nano", "mobilenetv4_conv_small_050"])
def test_save_and_load(tmp_path, id: str):
    student = build_student(id, 40, seed=3).train()
    student(images(4, 40))  # moves the BatchNorm statistics
    save_student(student, tmp_path / "student.safetensors", {"method": "dino"})
    for path in (tmp_path, tmp_path / "student.safetensors", str(tmp_path)):
        state = torch.get_rng_state()
        loaded = load_student(path)
        assert torch.equal(torch.get_rng_state(), state)
        assert not loaded.training and loaded.id == id and loaded.preprocess == student.preprocess
        with torch.no_grad():
            torch.testing.assert_close(loaded(images(2, 40)), student.eval()(images(2, 40)), rtol=0, atol=0)
    card = json.loads((tmp_path / "student.json").read_text())
    assert card["method"] == "dino" and card["licence"] == "Apache-2.0"
    assert card["params"] == sum(p.numel() for p in student.parameters())
    assert sorted(p.name for p in tmp_path.iterdir()) == ["student.json", "student.safetensors"]


def test_load_at_another_size(tmp_path):
    save_student(build_student("vit_tiny_d10", 64, seed=0), tmp_path / "student.safetensors", {})
    loaded = load_student(tmp_path, image_size=96)
    assert loaded.preprocess.image_size == 96 and loaded(images(1, 96)).shape == (1, 192)
    with pytest.raises(UserError, match="50 px"):
        load_student(tmp_path, image_size=50)


def test_load_refuses_what_is_not_the_saved_student(tmp_path):
    file, card_file = tmp_path / "student.safetensors", tmp_path / "student.json"
    with pytest.raises(UserError, match="no student"):
        load_student(tmp_path)
    save_student(build_student("nano", seed=0), file, {})
    good, card = file.read_bytes(), json.loads(card_file.read_text())

    file.write_bytes(good[:-1] + bytes([good[-1] ^ 1]))
    with pytest.raises(UserError, match="sha256"):
        load_student(tmp_path)
    file.write_bytes(good)
    card_file.write_text(json.dumps({**card, "id": "resnet5m"}))
    with pytest.raises(UserError, match="does not hold a resnet5m"):
        load_student(tmp_path)
    card_file.write_text("{")
    with pytest.raises(UserError, match="not JSON"):
        load_student(tmp_path)
    card_file.write_text("[]")
    with pytest.raises(UserError, match="no JSON object"):
        load_student(tmp_path)
    card_file.unlink()
    with pytest.raises(UserError, match="no card"):
        load_student(tmp_path)

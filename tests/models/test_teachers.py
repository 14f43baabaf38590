"""Teachers: names, the original repositories' checkpoint formats by structure, and what is refused."""

from __future__ import annotations

import argparse
import contextlib
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file
from torch import Tensor
from torch.nn import functional as F

from lowdino_edge.errors import UserError
from lowdino_edge.models import teacher as teacher_module
from lowdino_edge.models.backbone import build_student, timm_network
from lowdino_edge.models.student_file import save_student
from lowdino_edge.models.teacher import load_teacher
from lowdino_edge.models.teachers import TEACHERS, canonical, parse_teacher, weights_dir, with_image_size
from lowdino_edge.models.weights import fill, resize_positions, to_timm, unwrap

SMALL = "resnet10t"  # a network that is quick to write and read


@pytest.fixture(autouse=True)
def weights(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("LOWDINO_WEIGHTS", str(tmp_path / "weights"))
    return tmp_path / "weights"


def dinov2_state(
    dim: int = 32, depth: int = 2, grid: int = 37, registers: int = 0, swiglu: int = 0
) -> dict[str, Tensor]:
    """Random weights under the keys of the DINOv2 repository's files."""
    g = torch.Generator().manual_seed(0)

    def r(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=g) * 0.1

    s = {"cls_token": r(1, 1, dim), "pos_embed": r(1, 1 + grid**2, dim), "mask_token": r(1, dim)}
    if registers:
        s["register_tokens"] = r(1, registers, dim)
    s |= {"patch_embed.proj.weight": r(dim, 3, 14, 14), "patch_embed.proj.bias": r(dim)}
    for i in range(depth):
        b = f"blocks.{i}."
        for n in ("norm1", "norm2"):
            s |= {f"{b}{n}.weight": 1 + r(dim), f"{b}{n}.bias": r(dim)}
        s |= {f"{b}attn.qkv.weight": r(3 * dim, dim), f"{b}attn.qkv.bias": r(3 * dim)}
        s |= {f"{b}attn.proj.weight": r(dim, dim), f"{b}attn.proj.bias": r(dim)}
        s |= {f"{b}ls1.gamma": r(dim), f"{b}ls2.gamma": r(dim)}
        hidden = swiglu or 4 * dim
        first, second = ("w12", "w3") if swiglu else ("fc1", "fc2")
        width = 2 * hidden if swiglu else hidden
        s |= {f"{b}mlp.{first}.weight": r(width, dim), f"{b}mlp.{first}.bias": r(width)}
        s |= {f"{b}mlp.{second}.weight": r(dim, hidden), f"{b}mlp.{second}.bias": r(dim)}
    return s | {"norm.weight": 1 + r(dim), "norm.bias": r(dim)}


def dinov2_forward(s: dict[str, Tensor], x_BCHW: Tensor, heads: int, pos: Tensor) -> Tensor:
    """DINOv2's ViT written out from its description: the CLS token after the last norm. `pos` is for this size."""
    dim = s["cls_token"].shape[-1]
    x = F.conv2d(x_BCHW, s["patch_embed.proj.weight"], s["patch_embed.proj.bias"], stride=14).flatten(2).transpose(1, 2)
    n = x.shape[0]
    x = torch.cat([s["cls_token"].expand(n, -1, -1), x], 1) + pos
    if "register_tokens" in s:
        x = torch.cat([x[:, :1], s["register_tokens"].expand(n, -1, -1), x[:, 1:]], 1)
    depth = 1 + max(int(k.split(".")[1]) for k in s if k.startswith("blocks."))
    for i in range(depth):
        p = {k.removeprefix(f"blocks.{i}."): v for k, v in s.items() if k.startswith(f"blocks.{i}.")}
        y = F.layer_norm(x, (dim,), p["norm1.weight"], p["norm1.bias"], 1e-6)
        q, k, v = (
            F.linear(y, p["attn.qkv.weight"], p["attn.qkv.bias"]).unflatten(-1, (3, heads, -1)).permute(2, 0, 3, 1, 4)
        )
        a = ((q @ k.transpose(-2, -1)) / q.shape[-1] ** 0.5).softmax(-1) @ v
        y = F.linear(a.transpose(1, 2).flatten(2), p["attn.proj.weight"], p["attn.proj.bias"])
        x = x + p["ls1.gamma"] * y
        y = F.layer_norm(x, (dim,), p["norm2.weight"], p["norm2.bias"], 1e-6)
        if "mlp.w12.weight" in p:
            a, b = F.linear(y, p["mlp.w12.weight"], p["mlp.w12.bias"]).chunk(2, -1)
            y = F.linear(F.silu(a) * b, p["mlp.w3.weight"], p["mlp.w3.bias"])
        else:
            y = F.gelu(F.linear(y, p["mlp.fc1.weight"], p["mlp.fc1.bias"]))
            y = F.linear(y, p["mlp.fc2.weight"], p["mlp.fc2.bias"])
        x = x + p["ls2.gamma"] * y
    return F.layer_norm(x, (dim,), s["norm.weight"], s["norm.bias"], 1e-6)[:, 0]


def original_positions(pos: Tensor, grid: int, registers: bool) -> Tensor:
    """As the DINOv2 repository does it, in one direct expression."""
    map_1Dhw = pos[:, 1:].reshape(1, 37, 37, -1).permute(0, 3, 1, 2)
    if registers:
        map_1Dhw = F.interpolate(map_1Dhw, size=(grid, grid), mode="bicubic", antialias=True)
    else:
        map_1Dhw = F.interpolate(map_1Dhw, scale_factor=((grid + 0.1) / 37,) * 2, mode="bicubic", antialias=False)
    return torch.cat([pos[:, :1], map_1Dhw.permute(0, 2, 3, 1).reshape(1, grid * grid, -1)], 1)


# ---- names


def test_table():
    assert {"dinov2_vits14", "dinov2_vitg14_reg", "dino_resnet50", "dino_vits16", "dino_vits8", "dino_vitb16"} <= set(
        TEACHERS
    )
    assert TEACHERS["dinov2_vits14"].file == "dinov2_vits14_pretrain.pth"
    assert TEACHERS["dinov2_vitl14_reg"].url.endswith("/dinov2_vitl14/dinov2_vitl14_reg4_pretrain.pth")
    for row in TEACHERS.values():
        with torch.device("meta"):
            net = timm_network(row.timm, row.image_size)
        assert net.num_features == row.embed_dim


@pytest.mark.parametrize(
    ("spec", "name"),
    [
        ("dinov2/vits14", "dinov2_vits14"),
        ("dinov2_vitb14_reg4", "dinov2_vitb14_reg"),
        ("dinov2/vits14@a/b.pth", "dinov2_vits14"),
        ("timm:resnet50?x=1@f", "resnet50"),
        ("vit_base_patch14_reg4_dinov2.lvd142m", "vit_base_patch14_reg4_dinov2.lvd142m"),
    ],
)
def test_canonical(spec: str, name: str):
    assert canonical(spec) == name


def test_another_size():
    assert with_image_size("dinov2_vits14@/f?x", 518) == "dinov2_vits14?image_size=518@/f?x"
    assert with_image_size("a?image_size=96&mean=0.5@f", 64) == "a?mean=0.5&image_size=64@f"
    assert parse_teacher(with_image_size("dinov2_vits14", 28)).options == {"image_size": 28}


def test_parse():
    p = parse_teacher("timm:mobilenetv2_100?pad_type=same&mean=0.5&std=0.1,0.2,0.3&image_size=96@/x/y@z.safetensors")
    assert (p.name, p.file) == ("mobilenetv2_100", Path("/x/y@z.safetensors"))
    assert p.options == {"pad_type": "same", "mean": (0.5,) * 3, "std": (0.1, 0.2, 0.3), "image_size": 96}


@pytest.mark.parametrize(
    "spec", ["", "@f", "a@", "a?b", "a?=1", "a?mean=x", "a?mean=1,2", "a?std=0", "a?image_size=big", "a?x=[1"]
)
def test_parse_refuses(spec: str):
    with pytest.raises(UserError):
        parse_teacher(spec)


@given(st.text())
def test_parse_never_crashes(spec: str):
    with contextlib.suppress(UserError):
        parse_teacher(spec)


# ---- position embeddings


@pytest.mark.parametrize("registers", [False, True])
@pytest.mark.parametrize("grid", [16, 7, 37, 40])
def test_positions_are_resized_as_the_original_does(grid: int, registers: bool):
    pos = torch.randn(1, 1 + 37 * 37, 6, generator=torch.Generator().manual_seed(1))
    ours = resize_positions(pos, grid, prefix=1, offset=0 if registers else 0.1, antialias=registers)
    if grid == 37:
        assert torch.equal(ours, pos)
    else:
        torch.testing.assert_close(ours, original_positions(pos, grid, registers))


def test_the_offset_matters():
    pos = torch.randn(1, 1 + 37 * 37, 6)
    a, b = (resize_positions(pos, 16, prefix=1, offset=o, antialias=False) for o in (0.0, 0.1))
    assert (a - b).abs().max() > 0.05


# ---- original formats


@pytest.mark.parametrize(
    ("id", "registers", "swiglu"),
    [("dinov2_vits14", 0, 0), ("dinov2_vits14_reg", 4, 0), ("dinov2_vitg14", 0, 96), ("dinov2_vitg14_reg", 4, 96)],
)
def test_dinov2_checkpoint_computes_what_the_original_does(id: str, registers: int, swiglu: int):
    state = dinov2_state(registers=registers, swiglu=swiglu)
    mlp = {"mlp_ratio": 6} if swiglu else {}
    net = timm_network(TEACHERS[id].timm, 56, embed_dim=32, depth=2, num_heads=2, **mlp).eval()
    fill(net, to_timm(state, net), Path("x.pth"), id)
    x_BCHW = torch.randn(2, 3, 56, 56)
    expected = dinov2_forward(state, x_BCHW, 2, original_positions(state["pos_embed"], 4, bool(registers)))
    with torch.no_grad():
        torch.testing.assert_close(net(x_BCHW), expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("size", [224, 518])
def test_dinov2_vits14_from_its_own_file(weights: Path, size: int):
    state = dinov2_state(384, 12)
    weights.mkdir()
    torch.save(state, weights / "dinov2_vits14_pretrain.pth")
    teacher = load_teacher("dinov2/vits14" if size == 224 else f"dinov2_vits14?image_size={size}", download=False)
    assert (teacher.id, teacher.embed_dim, teacher.licence) == ("dinov2_vits14", 384, "Apache-2.0")
    assert teacher.preprocess.image_size == size and teacher.preprocess.resize == size * 8 // 7
    x_BCHW = torch.rand(1, 3, size, size)
    mean, std = (
        torch.tensor([0.485, 0.456, 0.406]).view(1, 3, 1, 1),
        torch.tensor([0.229, 0.224, 0.225]).view(1, 3, 1, 1),
    )
    pos = state["pos_embed"] if size == 518 else original_positions(state["pos_embed"], size // 14, False)
    expected = dinov2_forward(state, (x_BCHW - mean) / std, 6, pos)
    torch.testing.assert_close(teacher(x_BCHW), expected, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("grid", [14, 4])
def test_dino_vit_checkpoint(grid: int):
    """DINO's own ViT has timm's keys; other sizes than its own take DINO's interpolation."""
    net = timm_network("vit_small_patch16_224.dino", 16 * grid, embed_dim=32, depth=2, num_heads=2).eval()
    full = timm_network("vit_small_patch16_224.dino", 224, embed_dim=32, depth=2, num_heads=2)
    state = full.state_dict()
    fill(net, to_timm(state, net), Path("x.pth"), "dino_vits16")
    if grid == 14:
        assert torch.equal(net.pos_embed, full.pos_embed)
    else:
        map_1Dhw = full.pos_embed[:, 1:].reshape(1, 14, 14, -1).permute(0, 3, 1, 2)
        map_1Dhw = F.interpolate(map_1Dhw, scale_factor=(4.1 / 14,) * 2, mode="bicubic")
        torch.testing.assert_close(net.pos_embed[:, 1:], map_1Dhw.flatten(2).transpose(1, 2))


def test_dino_resnet50_from_torchvision_keys(tmp_path: Path):
    from torchvision.models import resnet50

    reference = resnet50().eval()
    state = {k: v for k, v in reference.state_dict().items() if not k.startswith("fc.")}
    file = tmp_path / "dino_resnet50_pretrain.pth"
    torch.save(state, file)
    teacher = load_teacher(f"dino_resnet50?image_size=64@{file}")
    assert teacher.embed_dim == 2048
    reference.fc = torch.nn.Identity()
    x_BCHW = torch.rand(1, 3, 64, 64)
    with torch.no_grad():
        torch.testing.assert_close(teacher(x_BCHW), reference(teacher.normalise(x_BCHW)), rtol=1e-3, atol=1e-4)


def with_head(state: dict[str, Tensor]) -> dict[str, Tensor]:
    return {"head.mlp.0.weight": torch.ones(2, 2)} | {f"backbone.{k}": v for k, v in state.items()}


@pytest.mark.parametrize("wrap", [
    lambda s: s,
    lambda s: {"state_dict": s},
    lambda s: {"model": s, "epoch": 3},
    lambda s: {"student": {"x": torch.ones(1)}, "teacher": with_head(s), "args": argparse.Namespace(lr=1)},
    lambda s: {"teacher": {f"module.backbone.{k}": v for k, v in s.items()}},
    lambda s: {f"module.{k}": v for k, v in s.items()},
])  # fmt: skip
def test_wrapped_checkpoints_are_unwrapped(tmp_path: Path, wrap):
    state = {"conv1.weight": torch.ones(2), "layer1.bn.bias": torch.zeros(3)}
    torch.save(wrap(state), tmp_path / "x.pth")
    found = unwrap(teacher_module.read_state(tmp_path / "x.pth"))
    assert found.keys() == state.keys()


def metas_state(net: torch.nn.Module) -> dict[str, Tensor]:
    """timm's DINOv3 under the keys of Meta's repository; what it does not keep is made up."""
    made: dict[str, Tensor] = {"mask_token": torch.ones(1, 384), "rope_embed.periods": torch.ones(16)}
    for key, value in net.state_dict().items():
        key = key.replace("reg_token", "storage_tokens").replace("gamma_1", "ls1.gamma").replace("gamma_2", "ls2.gamma")
        if key.endswith("q_bias"):
            block = key.removesuffix("q_bias")
            masked = torch.full_like(value, 3.0)
            made[f"{block}qkv.bias"] = torch.cat([value, masked, net.state_dict()[f"{block}v_bias"]])
            made[f"{block}qkv.bias_mask"] = torch.cat([torch.ones_like(value), 0 * value, torch.ones_like(value)])
        elif not key.endswith("v_bias"):
            made[key] = value.clone()
    return made


@pytest.mark.parametrize("id", ["dinov3_vits16", "eupe_vitt16"])
def test_dinov3_and_eupe_from_their_own_files(id: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    """Their keys are those of the repositories as published; the CLS token is the embedding, as in their code."""
    torch.manual_seed(0)
    net = timm_network(TEACHERS[id].timm, 64).eval()
    for name, p in net.named_parameters():  # gammas of 1e-5 would hide the blocks
        p.data.copy_(torch.randn_like(p) * 0.1 + ("gamma" in name))
    torch.save(metas_state(net), tmp_path / "x.pth")
    teacher = load_teacher(f"{id}?image_size=64@{tmp_path / 'x.pth'}")
    x_BCHW = torch.rand(2, 3, 64, 64)
    with torch.no_grad():
        expected = net.forward_features(teacher.normalise(x_BCHW))[:, 0]
        torch.testing.assert_close(teacher(x_BCHW), expected, rtol=1e-3, atol=1e-4)
    said = capsys.readouterr().err
    assert f"teacher {id}: {TEACHERS[id].licence}; {TEACHERS[id].terms}" in said


def test_a_bias_that_the_network_has_no_place_for_is_named(tmp_path: Path):
    net = timm_network(TEACHERS["dinov3_vits16"].timm, 64)
    state = metas_state(net)
    state["blocks.0.attn.qkv.bias"] = torch.zeros(3 * 384)
    state["blocks.1.attn.qkv.bias"] = torch.ones(3 * 384)
    torch.save(state, tmp_path / "x.pth")
    with pytest.raises(UserError, match=r"unexpected: blocks\.1\.attn\.qkv\.bias"):
        load_teacher(f"dinov3_vits16?image_size=64@{tmp_path / 'x.pth'}")


# ---- which output, and ONNX files


def test_the_embedding_is_cls_or_pooled_or_both(tmp_path: Path):
    state = dinov2_state(384, 12)
    torch.save(state, tmp_path / "x.pth")
    z, widths = {}, {"cls": 384, "pooled": 384, "both": 768}
    x_BCHW = torch.rand(2, 3, 56, 56)
    for kind, width in widths.items():
        teacher = load_teacher(f"dinov2_vits14?image_size=56&embedding={kind}@{tmp_path / 'x.pth'}")
        assert teacher.embed_dim == width
        z[kind] = teacher(x_BCHW)
        both, patches = teacher.with_patches(x_BCHW)
        torch.testing.assert_close(both, z[kind])
        assert patches.shape == (2, 16, 384) and teacher.grid() == (4, 384)
    torch.testing.assert_close(z["both"], torch.cat([z["cls"], z["pooled"]], 1))
    torch.testing.assert_close(z["pooled"], patches.mean(1))
    with pytest.raises(UserError, match="embedding"):
        parse_teacher("dinov2_vits14?embedding=mean")


@pytest.mark.parametrize("fixed", [True, False])
def test_an_onnx_file_teaches(tmp_path: Path, fixed: bool):
    net = timm_network(SMALL, None).eval()
    file = tmp_path / "net.onnx"
    batch = {} if fixed else {"dynamic_axes": {"x": {0: "n"}}}
    torch.onnx.export(net, (torch.rand(1, 3, 64, 64),), file, input_names=["x"], dynamo=False, **batch)
    teacher = load_teacher(f"{file}?mean=0.5&std=0.25")
    assert (teacher.id, teacher.embed_dim, teacher.preprocess.image_size) == ("net", 512, 64)
    x_BCHW = torch.rand(3, 3, 64, 64).contiguous(memory_format=torch.channels_last)
    with torch.no_grad():
        torch.testing.assert_close(teacher(x_BCHW), net((x_BCHW - 0.5) / 0.25), rtol=1e-3, atol=1e-4)
    assert load_teacher(f"{file}?mean=0.4&std=0.25").fingerprint != teacher.fingerprint
    with pytest.raises(UserError, match="gives no patches"):
        teacher.with_patches(x_BCHW)


def test_onnx_refusals(tmp_path: Path):
    with pytest.raises(UserError, match="no ONNX file"):
        load_teacher(str(tmp_path / "none.onnx"))
    (tmp_path / "noise.onnx").write_bytes(bytes(range(256)))
    with pytest.raises(UserError, match="cannot read"):
        load_teacher(str(tmp_path / "noise.onnx"))
    with pytest.raises(UserError, match="no option 'embedding'"):
        load_teacher(f"{tmp_path / 'noise.onnx'}?embedding=cls")
    (tmp_path / "artifact.json").write_text("{}")
    with pytest.raises(UserError, match="is a student's artifact"):
        load_teacher(str(tmp_path / "noise.onnx"))


# ---- timm's format, runs, fingerprints


def saved(tmp_path: Path, seed: int = 0, classes: int = 5) -> Path:
    torch.manual_seed(seed)
    net = timm_network(SMALL, None, num_classes=classes)
    save_file(net.state_dict(), tmp_path / "small.safetensors")
    return tmp_path / "small.safetensors"


def test_timm_file_with_any_classifier(tmp_path: Path):
    file = saved(tmp_path)
    teacher = load_teacher(f"{SMALL}?image_size=64&mean=0.5&std=0.25@{file}", download=False)
    assert teacher.embed_dim == 512 and teacher.preprocess.image_size == 64
    assert teacher.mean.tolist() == pytest.approx([0.5] * 3) and teacher.std.tolist() == pytest.approx([0.25] * 3)
    assert not any(p.requires_grad for p in teacher.parameters())
    teacher.train()
    assert not teacher.training and not teacher.net.training
    x_BCHW = torch.rand(3, 3, 64, 64)
    torch.testing.assert_close(teacher(x_BCHW)[:1], teacher(x_BCHW[:1]), rtol=1e-4, atol=1e-5)


def test_fingerprint_follows_weights_and_options_only(tmp_path: Path):
    file = saved(tmp_path)
    first = load_teacher(f"{SMALL}@{file}")
    moved = tmp_path / "moved.pth"
    torch.save({"state_dict": load_file(file)}, moved)
    assert load_teacher(f"timm:{SMALL}@{moved}").fingerprint == first.fingerprint
    assert load_teacher(f"{SMALL}?mean=0.5@{file}").fingerprint != first.fingerprint
    code = (
        f"from lowdino_edge.models.teacher import load_teacher; print(load_teacher({f'{SMALL}@{file}'!r}).fingerprint)"
    )
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert out.strip() == first.fingerprint
    assert load_teacher(f"{SMALL}@{saved(tmp_path, seed=1)}").fingerprint != first.fingerprint


def test_a_run_teaches(tmp_path: Path):
    student = build_student("nano", seed=4).eval()
    save_student(student, tmp_path / "student.safetensors", {})
    for spec in (tmp_path, tmp_path / "student.safetensors"):
        teacher = load_teacher(str(spec))
        assert (teacher.id, teacher.embed_dim, teacher.preprocess) == ("nano", 256, student.preprocess)
        x_BCHW = torch.rand(2, 3, 32, 32)
        torch.testing.assert_close(teacher(x_BCHW), student(x_BCHW).detach())
    assert len(teacher.fingerprint) == 64


# ---- refused, with a way out


def test_no_weights_says_what_to_fetch_and_where():
    with pytest.raises(UserError) as e:
        load_teacher("dinov2_vits14", download=False)
    assert "dinov2_vits14" in e.value.message
    assert TEACHERS["dinov2_vits14"].url in e.value.hint
    assert str(weights_dir() / "dinov2_vits14_pretrain.pth") in e.value.hint
    with pytest.raises(UserError) as e:
        load_teacher("mobilenetv2_100", download=False)
    assert "huggingface.co/timm/mobilenetv2_100" in e.value.hint and "mobilenetv2_100.safetensors" in e.value.hint


def test_failed_download_leaves_nothing(monkeypatch: pytest.MonkeyPatch, weights: Path, tmp_path: Path):
    from lowdino_edge.models.weights import find_weights

    with pytest.raises(UserError, match="download failed"):
        find_weights("t", "t.pth", "http://127.0.0.1:9/t.pth")
    assert not weights.exists() or not list(weights.iterdir())
    source = tmp_path / "source.pth"
    source.write_bytes(b"abc")
    found = find_weights("t", "t.pth", source.as_uri())
    assert found == weights / "t.pth" and found.read_bytes() == b"abc"
    assert [p.name for p in weights.iterdir()] == ["t.pth"]


def test_timms_file_is_found_beside_the_originals_name(weights: Path):
    weights.mkdir()
    net = timm_network("resnet50", None)
    save_file(net.state_dict(), weights / "resnet50.safetensors")
    assert load_teacher("dino_resnet50?image_size=32", download=False).embed_dim == 2048


def test_unknown_teacher():
    with pytest.raises(UserError, match="unknown teacher 'dinov2_vits15'") as e:
        load_teacher("dinov2_vits15")
    assert "dinov2_vits14" in e.value.hint
    with pytest.raises(UserError, match="unknown teacher"):
        load_teacher("no/such/run")


def test_wrong_weights_are_named(tmp_path: Path):
    file = saved(tmp_path)
    state = load_file(file)
    first = sorted(state)[0]
    extra = {**state, "zzz.weight": torch.ones(1)}
    del extra[first]
    save_file(extra, tmp_path / "other.safetensors")
    with pytest.raises(UserError, match=f"missing: {first}; unexpected: zzz.weight"):
        load_teacher(f"{SMALL}@{tmp_path / 'other.safetensors'}")
    save_file({**state, first: torch.ones(7)}, tmp_path / "shape.safetensors")
    with pytest.raises(UserError, match="other shape"):
        load_teacher(f"{SMALL}@{tmp_path / 'shape.safetensors'}")
    with pytest.raises(UserError, match=r"is no resnet18.* and \d+ more"):
        load_teacher(f"resnet18@{file}")


@pytest.mark.parametrize("suffix", [".safetensors", ".pth"])
@pytest.mark.parametrize("damage", ["cut", "noise", "empty"])
def test_corrupted_files(tmp_path: Path, suffix: str, damage: str):
    good = tmp_path / f"good{suffix}"
    (save_file if suffix == ".safetensors" else torch.save)({"a": torch.ones(1000)}, good)
    data = good.read_bytes()
    bad = tmp_path / f"bad{suffix}"
    bad.write_bytes({"cut": data[: len(data) // 2], "noise": bytes(range(256)) * 9, "empty": b""}[damage])
    with pytest.raises(UserError, match="cannot read weights"):
        load_teacher(f"{SMALL}@{bad}")


class Trap:
    """Something that would run code, were the file unpickled freely."""

    def __reduce__(self):
        return (print, ("run!",))


def test_pickled_code_is_not_run(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    torch.save({"a": Trap()}, tmp_path / "trap.pth")
    with pytest.raises(UserError, match="cannot read weights"):
        load_teacher(f"{SMALL}@{tmp_path / 'trap.pth'}")
    assert "run!" not in capsys.readouterr().out


def test_other_refusals(tmp_path: Path):
    with pytest.raises(UserError, match="no weights at"):
        load_teacher(f"{SMALL}@{tmp_path / 'none.pth'}")
    torch.save({"epoch": 3}, tmp_path / "empty.pth")
    with pytest.raises(UserError, match="holds no weights"):
        load_teacher(f"{SMALL}@{tmp_path / 'empty.pth'}")
    file = saved(tmp_path)
    with pytest.raises(UserError, match="cannot be built"):
        load_teacher(f"{SMALL}?no_such_thing=1@{file}")
    save_file(timm_network("convnext_atto", None).state_dict(), tmp_path / "atto.safetensors")
    with pytest.raises(UserError, match="cannot take images of 16 px"):
        load_teacher(f"convnext_atto?image_size=16@{tmp_path / 'atto.safetensors'}")


# ---- the real one


@pytest.mark.data
def test_real_teacher_tells_cifar_classes_apart(real_cifar: Path):
    """MobileNetV2 trained on ImageNet: about 81% with the whole bank at 224 px; here 400 images at 96 px."""
    import numpy as np
    from PIL import Image

    beside = Path(__file__).resolve().parents[3] / "shared" / "data"
    places = (real_cifar.parent, beside)
    files = [p / "teacher" / "mobilenetv2_imagenet.safetensors" for p in places]
    file = next((f for f in files if f.is_file()), None)
    if file is None:
        pytest.skip("no teacher/mobilenetv2_imagenet.safetensors in the test data")
    teacher = load_teacher(f"timm:mobilenetv2_100?pad_type=same&mean=0.5&std=0.5&image_size=96@{file}", download=False)
    assert teacher.embed_dim == 1280

    def embed(split: str, per_class: int) -> tuple[Tensor, Tensor]:
        z, y = [], []
        for label, folder in enumerate(sorted((real_cifar / split).iterdir())):
            paths = sorted(folder.iterdir())[:per_class]
            u8 = np.stack(
                [np.asarray(Image.open(p).convert("RGB").resize((96, 96), Image.Resampling.BICUBIC)) for p in paths]
            )
            z.append(F.normalize(teacher(torch.from_numpy(u8).permute(0, 3, 1, 2).float() / 255), dim=1))
            y += [label] * len(paths)
        return torch.cat(z), torch.tensor(y)

    bank, bank_y = embed("train", 40)
    query, query_y = embed("val", 10)
    sim, index = (query @ bank.T).topk(10, dim=1)
    votes = torch.zeros(len(query), 10).scatter_add_(1, bank_y[index], (sim / 0.07).exp())
    accuracy = (votes.argmax(1) == query_y).float().mean().item()
    assert accuracy > 0.5, accuracy  # chance is 0.1; raw pixels about 0.25

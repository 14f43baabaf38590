"""What a ViT's CLS token attends to against q, k and softmax by hand; maps of images of any shape."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor, nn

from lowdino_edge.errors import UserError
from lowdino_edge.models.attention import has_attention, look
from lowdino_edge.models.backbone import Student, build_student
from lowdino_edge.models.teacher import Teacher
from lowdino_edge.types import Preprocess

PLAIN = (0.0, 0.0, 0.0), (1.0, 1.0, 1.0)


def vit(**kwargs: Any) -> VisionTransformer:
    options = {"img_size": 32, "patch_size": 8, "embed_dim": 24, "depth": 2, "num_heads": 3, "num_classes": 0, **kwargs}
    net = VisionTransformer(**options).eval()
    for p in net.parameters():  # large enough that no two patches are looked at alike
        nn.init.normal_(p)
    return net


def by_hand(net: VisionTransformer, x_BCHW: Tensor) -> Tensor:
    """(B, A, P), the patches' share alone."""
    seen = []
    hook = net.blocks[-1].norm1.register_forward_hook(lambda module, args, out: seen.append(out))
    with torch.no_grad():
        net.forward_features(x_BCHW)
        hook.remove()
        attention = net.blocks[-1].attn
        b, n, d = seen[0].shape
        heads, width = attention.num_heads, d // attention.num_heads
        out = torch.zeros(b, heads, n)
        qkv = seen[0] @ attention.qkv.weight.T + attention.qkv.bias
        for a in range(heads):
            q = attention.q_norm(qkv[..., a * width : (a + 1) * width])
            k = attention.k_norm(qkv[..., d + a * width : d + (a + 1) * width])
            out[:, a] = torch.softmax((q[:, :1] @ k.mT)[:, 0] / width**0.5, -1)
    return out[:, :, net.num_prefix_tokens :]


@pytest.mark.parametrize("fused", [True, False])
@pytest.mark.parametrize("options", [{}, {"reg_tokens": 4}, {"qk_norm": True, "reg_tokens": 2, "no_embed_class": True}])
def test_attention_is_what_q_and_k_say(options: dict[str, Any], fused: bool) -> None:
    net, x = vit(**options), torch.rand(2, 3, 32, 32)
    for block in net.blocks:
        block.attn.fused_attn = fused
    model = Teacher("vit", net, Preprocess(32), *PLAIN, "none")
    assert has_attention(model)
    map_BDhw, attention = look(model, x)
    assert attention is not None and attention.shape == (2, 3, 4, 4)
    want = by_hand(net, x)
    assert torch.allclose(attention.flatten(2), want, atol=1e-6)
    assert (attention.sum((2, 3)) <= 1 + 1e-6).all() and want.std() > 0.002
    tokens = net.forward_features(x)[:, net.num_prefix_tokens :]
    assert torch.allclose(map_BDhw.flatten(2).mT, tokens, atol=1e-6)
    assert net.blocks[-1].attn.fused_attn is fused


def test_a_student_normalises_before_it_looks() -> None:
    student = build_student("vit_tiny_d10", 64, seed=0).eval()
    x = torch.rand(1, 3, 64, 64)
    _, attention = look(student, x)
    assert attention is not None
    assert torch.allclose(attention.flatten(2), by_hand(student.net, student.normalise(x)), atol=1e-6)


def test_images_of_another_shape() -> None:
    """Cells in the order of the picture: brightening one patch moves its own cell."""
    net = vit(pos_embed="learn")
    model = Teacher("vit", net, Preprocess(32), *PLAIN, "none")
    x = torch.rand(1, 3, 24, 64)
    map_BDhw, attention = look(model, x)
    assert map_BDhw.shape == (1, 24, 3, 8) and attention is not None and attention.shape == (1, 3, 3, 8)
    assert not net.dynamic_img_size and net.patch_embed.strict_img_size and net.patch_embed.flatten
    dynamic = vit(dynamic_img_size=True)
    dynamic.load_state_dict(net.state_dict())
    want = dynamic.forward_features(x)[:, 1:].mT.unflatten(2, (3, 8))
    assert torch.allclose(map_BDhw, want, atol=1e-6)
    x[:, :, 8:16, 48:56] += 3
    moved = (look(model, x)[0] - map_BDhw).square().sum(1)[0]
    assert divmod(int(moved.argmax()), 8) == (1, 6)
    with pytest.raises(UserError, match="takes no images of 30 x 24 px"):
        look(model, torch.rand(1, 3, 24, 30))


@pytest.mark.parametrize("id", ["nano", "mobilevit_xs", "convnext_atto"])
def test_networks_without_attention_give_their_map(id: str) -> None:
    student = build_student(id, 64, seed=0).eval()
    x = torch.rand(1, 3, 64, 96)
    map_BDhw, attention = look(student, x)
    assert attention is None and not has_attention(student)
    side = student.map_shape(64)[1]
    assert map_BDhw.shape[2:] == (side, side * 3 // 2)
    assert torch.equal(map_BDhw, student.feature_map(x))
    around = Teacher(id, student, Preprocess(64), *PLAIN, "none")
    assert torch.allclose(look(around, x)[0], map_BDhw, atol=1e-5)


class Vectors(nn.Module):
    num_features = 4

    def forward(self, x_BCHW: Tensor) -> Tensor:
        return x_BCHW.new_zeros(len(x_BCHW), 4)


def test_a_network_that_gives_vectors_alone_is_refused() -> None:
    model = Teacher("vectors", Vectors(), Preprocess(8), *PLAIN, "none")
    with pytest.raises(UserError, match="vectors gives no patches"):
        look(model, torch.rand(1, 3, 8, 8))
    assert isinstance(build_student("nano", 32, seed=0), Student)


def test_a_network_in_training_mode_is_looked_at_as_it_answers() -> None:
    """No batch statistics of the one image, and none are kept of it."""
    student, x = build_student("nano", 32, seed=0), torch.rand(1, 3, 32, 48)
    assert student.training
    before = {name: b.clone() for name, b in student.named_buffers()}
    map_BDhw, _ = look(student, x)
    assert student.training and all(torch.equal(b, before[name]) for name, b in student.named_buffers())
    assert torch.equal(map_BDhw, look(student.eval(), x)[0])


def test_channels_that_come_last_are_put_first() -> None:
    student = build_student("timm:swin_tiny_patch4_window7_224", 224, seed=0)
    map_BDhw, attention = look(student, torch.rand(1, 3, 224, 224))
    assert map_BDhw.shape == (1, student.embed_dim, 7, 7) and attention is None

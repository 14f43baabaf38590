"""The table of students. No torch: `lowdino list students` prints it.

`params` and `macs` count the network that ships, classifier removed, at the row's image size and batch 1; a test
rebuilds every row and holds them. `fragile_int8` says what plain static int8 was seen to ruin; None: it holds up.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

PARAM_LIMIT = 5_000_000
Family = Literal["cnn", "hybrid", "vit"]


@dataclass(frozen=True)
class StudentSpec:
    """One row. `timm` is timm's name for the network, None for those written here."""

    id: str
    params: int
    macs: int  # multiply-accumulates of one image
    embed_dim: int
    image_size: int
    licence: str  # of the architecture's code: students are trained from scratch
    family: Family
    timm: str | None = None
    fragile_int8: str | None = None
    summary: str = ""

    def to_dict(self) -> dict[str, Any]:
        """The JSON row of `list students`."""
        keys = ("id", "params", "macs", "embed_dim", "image_size", "licence", "family", "fragile_int8", "summary")
        return {k: getattr(self, k) for k in keys}


_APACHE = "Apache-2.0"
_MIXERS = "activations of the reparameterised depthwise mixers"
_ATTENTION = "attention and layer normalisation"

STUDENTS: dict[str, StudentSpec] = {
    row.id: row
    for row in (
        StudentSpec(
            "nano", 1_152_384, 30_146_560, 256, 32, _APACHE, "cnn", summary="tiny residual network for 16 to 64 px"
        ),
        StudentSpec(
            "resnet5m", 4_956_480, 2_738_405_376, 512, 224, _APACHE, "cnn", summary="LowDINO's ResNet5M, basic blocks"
        ),
        StudentSpec(
            "mobilenetv4_conv_small", 2_493_024, 184_725_568, 1280, 224, _APACHE, "cnn", "mobilenetv4_conv_small",
            summary="the fastest on phone CPUs",
        ),
        StudentSpec(
            "mobilenetv4_conv_small_050", 957_952, 63_461_408, 1280, 224, _APACHE, "cnn", "mobilenetv4_conv_small_050",
            summary="the same at half width",
        ),
        StudentSpec(
            "mobilevit_s", 4_937_632, 2_000_191_488, 640, 256, "Apache-2.0, parts Apple ml-cvnets", "hybrid",
            "mobilevit_s", _ATTENTION, "LowDINO's MobileViT-S",
        ),
        StudentSpec(
            "mobilevit_xs", 1_932_848, 1_025_527_808, 384, 256, "Apache-2.0, parts Apple ml-cvnets", "hybrid",
            "mobilevit_xs", _ATTENTION, "convolutions around small transformers",
        ),
        StudentSpec(
            "repvit_m0_9", 4_717_792, 816_512_832, 384, 224, _APACHE, "cnn", "repvit_m0_9", _MIXERS,
            "reparameterised, fast on the Neural Engine",
        ),
        StudentSpec(
            "edgenext_x_small", 2_143_804, 533_000_192, 192, 256, "MIT", "hybrid", "edgenext_x_small", _ATTENTION,
            "depthwise convolutions and attention over channels",
        ),
        StudentSpec(
            "efficientvit_b0", 2_129_008, 98_953_216, 1280, 224, _APACHE, "hybrid", "efficientvit_b0",
            "the normaliser of its linear attention, which must stay float", "linear attention",
        ),
        StudentSpec(
            "starnet_s1", 2_676_168, 421_685_376, 192, 224, _APACHE, "cnn", "starnet_s1",
            summary="element-wise products; TFLite wants min-max ranges",
        ),
        StudentSpec(
            "fastvit_t8", 3_257_232, 689_381_376, 768, 256, "Apache-2.0, parts Apple ml-fastvit", "hybrid",
            "fastvit_t8", _MIXERS, "reparameterised",
        ),
        StudentSpec(
            "convnext_atto", 3_374_520, 547_012_480, 320, 224, _APACHE, "cnn", "convnext_atto",
            summary="depthwise 7x7, layer norm; TFLite wants min-max ranges",
        ),
        StudentSpec(
            "vit_tiny_d10", 4_634_688, 1_049_392_896, 192, 224, _APACHE, "vit", None,
            "layer normalisation, softmax and GELU, which must stay float", "ViT-Ti/16 with 10 blocks",
        ),
    )
}  # fmt: skip

"""The table of teachers, what a teacher's name may look like, and where its weights are looked for. No torch."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from lowdino_edge import reading
from lowdino_edge.errors import UserError, unknown
from lowdino_edge.files import expanded

EMBEDDINGS = ("cls", "pooled", "both")  # of a ViT: the CLS token, the mean of its patches, one after the other
_DINOV2 = "https://dl.fbaipublicfiles.com/dinov2"
_DINO = "https://dl.fbaipublicfiles.com/dino"


@dataclass(frozen=True)
class TeacherSpec:
    """One row. `file` is the original checkpoint's name; timm's own file of the same network is taken too."""

    id: str
    timm: str
    embed_dim: int
    image_size: int
    licence: str  # of code and weights
    file: str
    url: str
    summary: str = ""
    terms: str = ""  # what the licence asks for beyond naming it

    def to_dict(self) -> dict[str, Any]:
        """The JSON row of `list teachers`."""
        keys = ("id", "embed_dim", "image_size", "licence", "file", "url", "timm", "summary")
        return {k: getattr(self, k) for k in keys}


def _dinov2(letter: str, timm_size: str, dim: int, registers: bool) -> TeacherSpec:
    name = f"dinov2_vit{letter}14"
    file = f"{name}_reg4_pretrain.pth" if registers else f"{name}_pretrain.pth"
    return TeacherSpec(
        id=name + ("_reg" if registers else ""),
        timm=f"vit_{timm_size}_patch14_{'reg4_' if registers else ''}dinov2.lvd142m",
        embed_dim=dim,
        image_size=224,
        licence="Apache-2.0",
        file=file,
        url=f"{_DINOV2}/{name}/{file}",
        summary=f"DINOv2 ViT-{letter.upper()}/14" + (" with 4 registers" if registers else ""),
    )


def _dino(id: str, timm: str, dim: int, file: str, summary: str) -> TeacherSpec:
    return TeacherSpec(
        id,
        timm,
        dim,
        224,
        "Apache-2.0",
        f"{file}_pretrain.pth",
        f"{_DINO}/{file}_pretrain/{file}_pretrain.pth",
        summary,
    )


def _hub(id: str, timm: str, dim: int, licence: str, terms: str, summary: str) -> TeacherSpec:
    """Networks whose weights are had from timm's page; those of Meta's own pages are behind a form."""
    file = f"{timm}.safetensors"
    url = f"https://huggingface.co/timm/{timm}/resolve/main/model.safetensors"
    return TeacherSpec(id, timm, dim, 256, licence, file, url, summary, terms)


_DINOV3 = "its licence binds whoever ships a network that was trained with it: read it first"
_EUPE = "for research, not for commerce; so is what is distilled from it"
_SIZES = (("s", "small", 384), ("b", "base", 768), ("l", "large", 1024), ("g", "giant", 1536))

TEACHERS: dict[str, TeacherSpec] = {
    row.id: row
    for row in (
        *(_dinov2(letter, size, dim, False) for letter, size, dim in _SIZES),
        *(_dinov2(letter, size, dim, True) for letter, size, dim in _SIZES),
        _dino("dino_resnet50", "resnet50", 2048, "dino_resnet50", "DINO ResNet-50"),
        _dino("dino_vits16", "vit_small_patch16_224.dino", 384, "dino_deitsmall16", "DINO ViT-S/16"),
        _dino("dino_vits8", "vit_small_patch8_224.dino", 384, "dino_deitsmall8", "DINO ViT-S/8"),
        _dino("dino_vitb16", "vit_base_patch16_224.dino", 768, "dino_vitbase16", "DINO ViT-B/16"),
        *(
            _hub(
                f"dinov3_vit{letter}16",
                f"vit_{size}_patch16_dinov3.lvd1689m",
                dim,
                "DINOv3 License",
                _DINOV3,
                f"DINOv3 ViT-{letter.upper()}/16",
            )
            for letter, size, dim in _SIZES[:3]
        ),
        *(
            _hub(
                f"eupe_vit{letter}16",
                f"vit_{size}_patch16_dinov3_qkvb.eupe_lvd1689m",
                dim,
                "FAIR Noncommercial Research License",
                _EUPE,
                f"EUPE ViT-{letter.upper()}/16 (arXiv 2603.22387)",
            )
            for letter, size, dim in (("t", "tiny", 192), *_SIZES[:2])
        ),
    )
}


@dataclass(frozen=True)
class TeacherName:
    """A parsed teacher: `NAME[?option=value&...][@FILE]`."""

    name: str  # a row of TEACHERS, or timm's name
    # mean, std, image_size, embedding (cls, pooled, both); the rest are timm's arguments
    options: Mapping[str, Any] = field(default_factory=dict)
    file: Path | None = None


def canonical(spec: str) -> str:
    """The bare name in a spec, aliases resolved: `dinov2/vits14` and `dinov2_vits14_reg4@FILE` find their rows."""
    name = spec.partition("@")[0].partition("?")[0].removeprefix("timm:")
    alias = name.lower().replace("/", "_").replace("_reg4", "_reg")
    return alias if alias in TEACHERS else name


def parse_teacher(spec: str) -> TeacherName:
    """Reads `dinov2_vits14`, `dinov2_vits14@FILE`, `timm:resnet50?pad_type=same&mean=0.5&std=0.5@FILE`.

    Option values are read as YAML; `mean` and `std` take one number or three between commas.

    Raises:
        UserError: an empty name, an option without a value, a mean or std that is not one or three numbers.
    """
    head, at, file = spec.partition("@")
    _, _, query = head.partition("?")
    name = canonical(spec)
    if name.endswith(".onnx") and not at:  # the file is the network
        file = name
    if not name or (at and not file):
        raise UserError(f"'{spec}' names no teacher", "write ID, ID@FILE, or timm:NAME?option=value@FILE")
    options: dict[str, Any] = {}
    for item in filter(None, query.split("&")):
        key, eq, text = item.partition("=")
        if not eq or not key:
            raise UserError(f"'{item}' in '{spec}' is no option", "write option=value, joined by &")
        if key == "embedding" and text not in EMBEDDINGS:
            raise unknown("embedding", text, EMBEDDINGS)
        options[key] = _triple(spec, key, text) if key in ("mean", "std") else _value(spec, text)
    size = options.get("image_size")
    if size is not None and (not isinstance(size, int) or isinstance(size, bool) or size < 1):
        raise UserError(f"image_size '{size}' in '{spec}' is no size", "give pixels, for example image_size=224")
    return TeacherName(name, options, expanded(file) if file else None)


def with_image_size(spec: str, size: int) -> str:
    """The same teacher at another size, in pixels; what the spec says of it is replaced."""
    head, at, file = spec.partition("@")
    name, _, query = head.partition("?")
    kept = [item for item in query.split("&") if item and not item.startswith("image_size=")]
    return f"{name}?{'&'.join([*kept, f'image_size={size}'])}{at}{file}"


def _value(spec: str, text: str) -> Any:
    try:
        return reading.from_yaml(text)
    except reading.Damaged:
        raise UserError(f"'{text}' in '{spec}' cannot be read", "give a number, true, false or a word") from None


def _triple(spec: str, key: str, text: str) -> tuple[float, ...]:
    try:
        values = tuple(float(v) for v in text.split(","))
    except ValueError:
        values = ()
    if len(values) not in (1, 3) or (key == "std" and min(values) <= 0):
        raise UserError(
            f"{key} '{text}' in '{spec}' is not one or three numbers", f"for example {key}=0.5 or {key}=0.5,0.5,0.5"
        )
    return values if len(values) == 3 else values * 3


def weights_dir() -> Path:
    """Where downloaded weights are kept and looked for first: $LOWDINO_WEIGHTS, else ~/.cache/lowdino/weights."""
    return Path(os.environ.get("LOWDINO_WEIGHTS") or Path.home() / ".cache" / "lowdino" / "weights").expanduser()

"""Frozen teachers: networks with known weights that give targets for distillation.

Suffixes: B batch, H and W pixels, D embedding width.
"""

from __future__ import annotations

import difflib
import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn

from lowdino_edge import console
from lowdino_edge.errors import UserError, unknown
from lowdino_edge.models.backbone import (
    IMAGENET_MEAN,
    IMAGENET_STD,
    Normalised,
    Student,
    map_of,
    probe,
    seeded,
    timm_network,
)
from lowdino_edge.models.student_file import load_student
from lowdino_edge.models.students import STUDENTS
from lowdino_edge.models.teachers import TEACHERS, TeacherName, canonical, parse_teacher
from lowdino_edge.models.weights import fill, find_weights, fingerprint, read_state, to_timm
from lowdino_edge.types import Preprocess

Embedding = Literal["cls", "pooled", "both"]


class Teacher(Normalised):
    """A frozen network in eval mode. Built by `load_teacher`.

    Attributes:
        id, embed_dim, preprocess, licence: as their names say.
        fingerprint: sha256 over its name, options and weights; caches of its outputs are keyed by it.
    """

    def __init__(
        self,
        id: str,
        net: nn.Module,
        preprocess: Preprocess,
        mean: Sequence[float],
        std: Sequence[float],
        licence: str,
        embedding: Embedding = "cls",
    ) -> None:
        super().__init__(mean, std)
        self.id = id
        self.net = net
        self.preprocess = preprocess
        self.licence = licence
        self.embedding = embedding
        self.fingerprint = ""
        self.requires_grad_(False).eval()
        self.to(memory_format=torch.channels_last)  # convolutions are faster so
        self.embed_dim = int(probe(self, preprocess.image_size).shape[1])

    def train(self, mode: bool = True) -> Teacher:
        """A teacher stays in eval mode, also inside a method that is put into training mode."""
        return super().train(False)

    def forward(self, x_BCHW: Tensor) -> Tensor:
        """RGB in [0, 1], (B, 3, H, W) -> (B, D): the CLS token after the last norm, or the pooled features of a CNN.

        With `?embedding=pooled` the mean of the patch tokens, with `both` one after the other.
        """
        if self.embedding == "cls":
            return self.net(self.normalise(x_BCHW))
        return self.with_patches(x_BCHW)[0]

    def embed_and_map(self, x_BCHW: Tensor) -> tuple[Tensor, Tensor]:
        """What the network itself embeds images as, (B, D), and its last map, (B, D', h, w), in one pass."""
        x_BCHW = self.normalise(x_BCHW)
        if isinstance(self.net, Student):
            return self.net.embed_and_map(x_BCHW)
        if not hasattr(self.net, "forward_features"):
            raise UserError(f"teacher {self.id} gives no patches", "use a timm network, or a loss without patches")
        y = self.net.forward_features(x_BCHW)  # type: ignore[operator]
        z_BD = self.net.forward_head(y)  # type: ignore[operator]
        return z_BD, map_of(self.net, y, x_BCHW)

    def with_patches(self, x_BCHW: Tensor) -> tuple[Tensor, Tensor]:
        """`forward`, and the cells of the last map row by row, (B, P, D'), in one pass.

        Raises:
            UserError: the network has no map, as an ONNX file.
        """
        z_BD, map_BDhw = self.embed_and_map(x_BCHW)
        patches_BPD = map_BDhw.flatten(2).mT
        if self.embedding == "cls":
            return z_BD, patches_BPD
        pooled_BD = patches_BPD.mean(1)
        return pooled_BD if self.embedding == "pooled" else torch.cat([z_BD, pooled_BD], 1), patches_BPD

    def grid(self) -> tuple[int, int]:
        """Side of the grid of patches, and their width."""
        size = self.preprocess.image_size
        with torch.no_grad():
            _, patches_1PD = self.with_patches(torch.zeros(1, 3, size, size, device=self.scale.device))
        return round(patches_1PD.shape[1] ** 0.5), patches_1PD.shape[2]


def load_teacher(spec: str, *, download: bool = True) -> Teacher:
    """A teacher by name.

    Args:
        spec: a row of TEACHERS, any timm model, either with `@FILE` (timm's or the original repository's format) and
            `?option=value` (mean, std, image_size, embedding, or an argument of the timm model); an .onnx file with
            mean, std and image_size; a run directory or a student.safetensors of lowdino.
        download: fetch weights that are not here yet.

    Raises:
        UserError: unknown name, no weights (says which file to fetch and where to put it), weights of another network.
    """
    named = "@" in spec or canonical(spec) in TEACHERS or canonical(spec).endswith(".onnx")
    if not named and Path(spec).exists():
        return _from_student(Path(spec))
    name = parse_teacher(spec)
    if name.name.endswith(".onnx"):
        return _from_onnx(name)
    if name.name not in TEACHERS:
        _check_timm_name(name.name)
    row = TEACHERS.get(name.name)
    net, cfg = _network(name)
    file = name.file or _find(name.name, cfg, download)
    fill(net, to_timm(read_state(file), net), file, name.name)
    teacher = _teacher(name, net, cfg)
    teacher.fingerprint = fingerprint(teacher, f"{teacher.id} {sorted(name.options.items())}")
    _say_licence(teacher, row.terms if row else "")
    return teacher


def untrained_teacher(spec: str, seed: int) -> Teacher:
    """The network of a teacher that is no file of ours and no ONNX, with random weights."""
    name = parse_teacher(spec)
    return _teacher(name, *_network(name, seed))


def _teacher(name: TeacherName, net: nn.Module, cfg: dict[str, Any]) -> Teacher:
    row, options = TEACHERS.get(name.name), name.options
    try:
        return Teacher(
            name.name,
            net,
            _preprocess(name, cfg),
            options.get("mean", cfg["mean"]),
            options.get("std", cfg["std"]),
            row.licence if row else str(cfg.get("license") or "unknown"),
            options.get("embedding", "cls"),
        )
    except (AssertionError, RuntimeError, ValueError) as e:
        raise UserError(
            f"{name.name} cannot take images of {_size(name, cfg)} px: {e}", "set another ?image_size="
        ) from None


def _say_licence(teacher: Teacher, terms: str) -> None:
    """Before it is used: what is trained with it may be bound by it."""
    console.say(f"teacher {teacher.id}: {teacher.licence}" + (f"; {terms}" if terms else ""))


def _from_onnx(name: TeacherName) -> Teacher:
    """A network in an ONNX file: images in, one vector each out, by ONNX Runtime."""
    from lowdino_edge.models.onnx_net import OnnxNet

    assert name.file is not None
    unfit = sorted(set(name.options) - {"mean", "std", "image_size"})
    if unfit:
        raise UserError(f"an ONNX teacher has no option '{unfit[0]}'", "mean, std and image_size are there")
    if (name.file.parent / "artifact.json").is_file():
        raise UserError(f"'{name.file}' is a student's artifact", "name its run, or its student.safetensors")
    net = OnnxNet(name.file)
    size = int(name.options.get("image_size") or net.image_size or 224)
    mean, std = name.options.get("mean", IMAGENET_MEAN), name.options.get("std", IMAGENET_STD)
    try:
        teacher = Teacher(name.file.stem, net, Preprocess(size, 0.875, "bicubic"), mean, std, "unknown")
    except (RuntimeError, ValueError, IndexError) as e:
        raise UserError(f"'{name.file}' gives no embedding of {size} px images: {e}", "set ?image_size=") from None
    teacher.fingerprint = hashlib.sha256(f"{net.sha256} {size} {mean} {std}".encode()).hexdigest()
    _say_licence(teacher, "")
    return teacher


def _from_student(path: Path) -> Teacher:
    student = load_student(path)
    spec = STUDENTS.get(student.id)
    licence = spec.licence if spec else "unknown"
    # the student normalises its input itself
    teacher = Teacher(student.id, student, student.preprocess, (0.0, 0.0, 0.0), (1.0, 1.0, 1.0), licence)
    teacher.fingerprint = fingerprint(teacher, student.id)
    return teacher


def _network(name: TeacherName, seed: int = 0) -> tuple[Any, dict[str, Any]]:
    """The timm network with random weights, and timm's settings for it."""
    import timm

    row = TEACHERS.get(name.name)
    arguments = {k: v for k, v in name.options.items() if k not in ("mean", "std", "image_size", "embedding")}
    timm_name = row.timm if row else name.name
    if row and row.timm.startswith("vit_"):
        arguments.setdefault("global_pool", "token")  # DINOv3 and EUPE are pooled in timm, CLS in their own code
    cfg = timm.get_pretrained_cfg(timm_name)
    size = name.options.get("image_size") or (row.image_size if row else None)
    try:
        with seeded(seed):
            net = timm_network(timm_name, size, **arguments)
    except (TypeError, AssertionError, RuntimeError, ValueError) as e:
        raise UserError(
            f"{name.name} cannot be built: {e}", "check the options after the ?, and the image size"
        ) from None
    return net, {
        **net.pretrained_cfg,
        "hub": cfg.hf_hub_id if cfg else None,
        "hub_file": cfg.hf_hub_filename if cfg else None,
    }


def _size(name: TeacherName, cfg: dict[str, Any]) -> int:
    row = TEACHERS.get(name.name)
    return int(name.options.get("image_size") or (row.image_size if row else cfg["input_size"][-1]))


def _preprocess(name: TeacherName, cfg: dict[str, Any]) -> Preprocess:
    # DINO and DINOv2 are evaluated on the centre 224 of a shorter side of 256
    crop = 0.875 if name.name in TEACHERS else float(cfg["crop_pct"] or 0.875)
    return Preprocess(_size(name, cfg), crop, "bilinear" if cfg["interpolation"] == "bilinear" else "bicubic")


def _find(name: str, cfg: dict[str, Any], download: bool) -> Path:
    if name in TEACHERS:
        row = TEACHERS[name]
        return find_weights(name, row.file, row.url, also=f"{row.timm}.safetensors", download=download)
    url = ""
    if cfg["hub"]:
        url = f"https://huggingface.co/{cfg['hub']}/resolve/main/{cfg['hub_file'] or 'model.safetensors'}"
    return find_weights(name, f"{name}.safetensors", url, download=download)


def _check_timm_name(name: str) -> None:
    import timm

    if timm.is_model(name):
        return
    close = difflib.get_close_matches(name.lower(), {*TEACHERS, *timm.list_models()}, n=3, cutoff=0.6)
    raise unknown("teacher", name, close or TEACHERS)

"""Students: a backbone that takes RGB in [0, 1] and gives an embedding, with its normalisation inside.

Suffixes: B batch, C channels, H and W pixels, h and w cells of a feature map, D embedding width.
"""

from __future__ import annotations

import copy
import difflib
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from itertools import chain
from typing import Any

import torch
from torch import Tensor, nn

from lowdino_edge import console
from lowdino_edge.errors import UserError, unknown
from lowdino_edge.models.students import PARAM_LIMIT, STUDENTS
from lowdino_edge.types import Preprocess

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)
_MIN_RANK = 16  # of a head: below it the teacher's space is too coarse to search


class Normalised(nn.Module):
    """A network with its input normalisation as buffers, so that no caller and no app repeats mean and std.

    It is a product and a sum (x * scale + shift) because every int8 toolchain quantizes those; not every one divides.
    """

    scale: Tensor
    shift: Tensor

    def __init__(self, mean: Sequence[float], std: Sequence[float]) -> None:
        super().__init__()
        mean_C, std_C = torch.tensor(mean), torch.tensor(std)
        self.register_buffer("scale", (1 / std_C).view(1, 3, 1, 1))
        self.register_buffer("shift", (-mean_C / std_C).view(1, 3, 1, 1))

    @property
    def mean(self) -> Tensor:
        return (-self.shift / self.scale).flatten()

    @property
    def std(self) -> Tensor:
        return (1 / self.scale).flatten()

    def normalise(self, x_BCHW: Tensor) -> Tensor:
        return x_BCHW * self.scale + self.shift


class Student(Normalised):
    """A backbone without classifier. Built by `build_student`.

    Attributes:
        id: its row in STUDENTS, or timm's name.
        embed_dim: D.
        preprocess: how images are brought to the input.
        head: `linear_head` behind the backbone that puts its embeddings into a teacher's space; None: they are the
            backbone's own.
    """

    head: nn.Sequential | None

    def __init__(
        self,
        id: str,
        net: nn.Module,
        preprocess: Preprocess,
        mean: Sequence[float] = IMAGENET_MEAN,
        std: Sequence[float] = IMAGENET_STD,
    ) -> None:
        super().__init__(mean, std)
        self.id = id
        self.net = net
        self.preprocess = preprocess
        # MobileNetV4, EfficientViT: a layer after the pooling widens the embedding
        width: Any = getattr(net, "head_hidden_size", None) or net.num_features
        self.embed_dim = int(width)
        self.head = None

    def aligned(self, head: nn.Sequential) -> Student:
        """A copy whose embeddings go through `head`, one of `linear_head`."""
        made = copy.deepcopy(self)
        made.head, made.embed_dim = head, head_widths(head)[-1]
        return made

    def head_to(self, width: int) -> list[int]:
        """Widths of the head into `width` dimensions that keeps backbone and head below 5M parameters: one matrix where
        it fits, else two with as many dimensions between them as fit.

        Raises:
            UserError: fewer than 16.
        """
        left = PARAM_LIMIT - 1 - width - sum(p.numel() for p in self.parameters())
        if self.embed_dim * width <= left:
            return [width]
        rank = left // (self.embed_dim + width)
        if rank < _MIN_RANK:
            raise UserError(
                f"{self.id} leaves {max(0, left):,} of {PARAM_LIMIT:,} parameters for the way into {width} dimensions",
                "take a smaller student, or a teacher with a narrower embedding",
            )
        return [rank, width]

    def forward(self, x_BCHW: Tensor) -> Tensor:
        """RGB in [0, 1], (B, 3, H, W) -> embeddings (B, D)."""
        z_BD = self.net(self.normalise(x_BCHW))
        return z_BD if self.head is None else self.head(z_BD)

    def feature_map(self, x_BCHW: Tensor) -> Tensor:
        """The last map before pooling, (B, C, h, w). C is D, or narrower where a layer follows the pooling."""
        return self._map(self._features(x_BCHW), x_BCHW)

    def embed_and_map(self, x_BCHW: Tensor) -> tuple[Tensor, Tensor]:
        """`forward` and `feature_map` in one pass."""
        y = self._features(x_BCHW)
        z_BD = self.net.forward_head(y)  # type: ignore[operator]
        return z_BD if self.head is None else self.head(z_BD), self._map(y, x_BCHW)

    @torch.no_grad()
    def map_shape(self, size: int) -> tuple[int, int]:
        """Channels and side of the last map of an image of `size` pixels; nothing is changed by asking."""
        with in_eval(self):
            shape = self.feature_map(torch.zeros(1, 3, size, size, device=self.scale.device)).shape
        return int(shape[1]), int(shape[-1])

    def _features(self, x_BCHW: Tensor) -> Tensor:
        return self.net.forward_features(self.normalise(x_BCHW))  # type: ignore[operator]

    def _map(self, y: Tensor, x_BCHW: Tensor) -> Tensor:
        return map_of(self.net, y, x_BCHW)


@contextmanager
def in_eval(net: nn.Module) -> Iterator[None]:
    """While open, `net` is in eval mode; afterwards each of its parts is as it was."""
    modes = [(m, m.training) for m in net.modules()]
    net.eval()
    try:
        yield
    finally:
        for m, training in modes:
            m.training = training


def map_of(net: nn.Module, y: Tensor, x_BCHW: Tensor) -> Tensor:
    """What timm's `forward_features` gives, as a map (B, D, h, w)."""
    if y.ndim == 3:
        return tokens_to_map(net, y, x_BCHW)
    return y.permute(0, 3, 1, 2) if getattr(net, "output_fmt", "NCHW") == "NHWC" else y


def tokens_to_map(net: nn.Module, y_BND: Tensor, x_BCHW: Tensor) -> Tensor:
    """Patch tokens of a ViT, its prefix tokens (CLS, registers) dropped, as a map (B, D, h, w) of the images' shape."""
    y_BND = y_BND[:, int(getattr(net, "num_prefix_tokens", 1)) :]
    return y_BND.transpose(1, 2).unflatten(2, grid_of(y_BND.shape[1], x_BCHW))


def grid_of(n: int, x_BCHW: Tensor) -> tuple[int, int]:
    """Rows and columns of `n` square patches that cover these images."""
    rows = round((n * x_BCHW.shape[-2] / x_BCHW.shape[-1]) ** 0.5)
    return rows, n // rows


def build_student(id: str, image_size: int | None = None, *, seed: int | None = None, warn: bool = True) -> Student:
    """A student with random weights.

    Args:
        id: a row of STUDENTS, or any timm model. One of 5M parameters or more is a baseline, not exported.
        image_size: pixels of the square input; None: the row's own.
        seed: makes the weights a function of (id, image_size, seed) and leaves torch's generator as it was.
        warn: say so of a baseline.

    Raises:
        UserError: unknown id (nearest names offered), an image size the network cannot take (sizes that work offered).
    """
    name = id.removeprefix("timm:")
    own = name in STUDENTS
    if not own:
        _check_timm_name(name)
    size = image_size or (STUDENTS[name].image_size if own else _timm_size(name))
    with seeded(seed):
        student = _try_build(name, size)
    if student is None:
        raise UserError(f"{name} cannot take images of {size} px", _sizes_that_work(name, size))
    n = sum(p.numel() for p in student.parameters())
    if warn and n >= PARAM_LIMIT:
        limit = f"{PARAM_LIMIT / 1e6:.0f}M"
        console.warn(f"{name} has {n / 1e6:.2f}M parameters: a baseline; what is exported has under {limit}")
    return student


@contextmanager
def seeded(seed: int | None) -> Iterator[None]:
    """Draws inside follow `seed`; torch's CPU generator is put back afterwards. None: does nothing."""
    if seed is None:
        yield
        return
    state = torch.get_rng_state()
    torch.default_generator.manual_seed(seed)
    try:
        yield
    finally:
        torch.set_rng_state(state)


def student_preprocess(image_size: int) -> Preprocess:
    """Resize to 8/7 and centre-crop, as ImageNet networks are evaluated; tiny images are taken whole."""
    return Preprocess(image_size, 0.875 if image_size >= 96 else 1.0)


def _try_build(name: str, size: int) -> Student | None:
    """The student, or None where an image of this size does not pass through it."""
    try:
        net, mean, std = _network(name, size)
        student = Student(name, net, student_preprocess(size), mean, std)
        z_BD = probe(student, size)
    # what a network raises at an impossible size is its own affair: assertions, shape errors, empty maps
    except (AssertionError, RuntimeError, ValueError, ZeroDivisionError):
        return None
    if z_BD.ndim != 2 or not bool(torch.isfinite(z_BD).all()):
        return None
    student.embed_dim = z_BD.shape[1]
    return student


def probe(net: nn.Module, size: int) -> Tensor:
    """One forward of a black image in eval mode, on the network's own device."""
    training, device = net.training, next(chain(net.parameters(), net.buffers())).device
    net.eval()
    with torch.no_grad():
        z_BD = net(torch.zeros(1, 3, size, size, device=device))
    net.train(training)
    return z_BD


def _network(name: str, size: int) -> tuple[nn.Module, Sequence[float], Sequence[float]]:
    """The bare network with the mean and standard deviation it wants."""
    if name in STUDENTS and STUDENTS[name].timm is None:
        return _own(name, size), IMAGENET_MEAN, IMAGENET_STD
    net = timm_network(STUDENTS[name].timm or name if name in STUDENTS else name, size)
    cfg = net.pretrained_cfg
    return net, cfg["mean"], cfg["std"]


def _own(name: str, size: int) -> nn.Module:
    from lowdino_edge.models.nano import NanoNet
    from lowdino_edge.models.resnet5m import ResNet5M
    from lowdino_edge.models.vit import vit_tiny_d10

    builders: dict[str, Callable[[], nn.Module]] = {
        "nano": NanoNet,
        "resnet5m": ResNet5M,
        "vit_tiny_d10": lambda: vit_tiny_d10(size),
    }
    return builders[name]()


def timm_network(name: str, size: int | None, **kwargs: Any) -> Any:
    """A timm model with random weights and no classifier; those with position embeddings are told the image size."""
    import timm

    kwargs = {"num_classes": 0, **kwargs}
    cfg = timm.get_pretrained_cfg(name, allow_unregistered=True)
    if size is not None and cfg is not None and cfg.fixed_input_size:
        try:
            return timm.create_model(name, pretrained=False, img_size=size, **kwargs)
        except TypeError:  # a fixed size that is no argument: the caller's probe decides
            pass
    return timm.create_model(name, pretrained=False, **kwargs)


def _timm_size(name: str) -> int:
    import timm

    cfg = timm.get_pretrained_cfg(name, allow_unregistered=True)
    return int(cfg.input_size[-1]) if cfg is not None else 224


def _check_timm_name(name: str) -> None:
    import timm

    if timm.is_model(name):
        return
    # all of timm's names would fill the screen, so they are offered only where they are close
    close = difflib.get_close_matches(name.lower(), {*STUDENTS, *timm.list_models()}, n=3, cutoff=0.6)
    raise unknown("student", name, close or STUDENTS)


def _sizes_that_work(name: str, size: int) -> str:
    """A hint for `build_student`: the nearest sizes below and above that pass, tried out."""
    for step in (16, 14, 32):
        below, above = size // step * step, (size // step + 1) * step
        works = []
        for s in (below, above, 2 * above):
            with seeded(0):
                if s > 0 and s != size and _try_build(name, s) is not None:
                    works.append(s)
        if works:
            return f"use --image-size {' or '.join(map(str, works[:2]))}"
    return (
        f"leave --image-size out: {name} takes {STUDENTS[name].image_size if name in STUDENTS else _timm_size(name)} px"
    )


def count_macs(net: nn.Module, image_size: int) -> int:
    """Multiply-accumulates of one image, attention included, counted by torch while it runs."""
    from torch.nn.attention import SDPBackend, sdpa_kernel
    from torch.utils.flop_counter import FlopCounterMode

    # the fused CPU attention is not counted; its plain form is
    with FlopCounterMode(display=False) as counter, sdpa_kernel(SDPBackend.MATH):
        probe(net, image_size)
    return counter.get_total_flops() // 2


def linear_head(embed_dim: int, widths: Sequence[int]) -> nn.Sequential:
    """Matrices one after the other, a bias on the last."""
    ins = [embed_dim, *widths[:-1]]
    return nn.Sequential(
        *(nn.Linear(i, o, bias=k == len(widths) - 1) for k, (i, o) in enumerate(zip(ins, widths, strict=True)))
    )


def head_widths(head: nn.Sequential) -> list[int]:
    return [layer.out_features for layer in head if isinstance(layer, nn.Linear)]

"""Random views of a batch of images, on any device; every sample has its own parameters, and they can be replayed.

Crop, resize, flip and blur act on rows and columns apart, so together they are one pair of small matrices a sample:
view = W_y @ image @ W_x^T. No image is handled alone. Semantics are torchvision's: RandomResizedCrop with antialiased
bicubic resizing, ColorJitter's functions in the fixed order brightness, contrast, saturation, hue, GaussianBlur, and
solarising at 0.5.

Suffixes: B batch, C channels, H and W pixels of the image, s pixels of the view.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, Generic, Protocol, TypeVar

import torch
from torch import Tensor

from lowdino_edge.settings import ViewConfig, ViewsConfig
from lowdino_edge.types import At

Params = dict[str, Tensor]
P = TypeVar("P")
# `Views.sample`'s keys in the order of a row of `pack`.
PARAMS = (
    "width", "height", "x", "y", "hflip", "vflip", "brightness", "contrast", "saturation", "hue", "grey", "sigma",
    "solarise",
)  # fmt: skip
_FLAGS = ("hflip", "vflip", "grey", "solarise")
_TRIES = 10  # of a crop that fits into the image, as torchvision's RandomResizedCrop
_LUMA = (0.2989, 0.587, 0.114)
_AT_ONCE = {"cpu": 2**19, "other": 2**25}  # numbers of the views made at once: quick, and not too much memory


class ViewPlan(Protocol):
    """What a method trains on: uint8 images (B, 3, H, W) -> a list of float32 views (B, 3, s, s) in [0, 1]."""

    def __call__(self, u8_BCHW: Tensor, generator: torch.Generator, at: At, /) -> list[Tensor]: ...


class Views:
    """One kind of view. As a plan it makes `cfg.count` of them.

    Args:
        cfg: how views are drawn.
        image_size: s where the config does not say.
    """

    def __init__(self, cfg: ViewConfig, image_size: int) -> None:
        self.cfg = cfg
        self.count = cfg.count
        self.size = cfg.size or image_size

    def __call__(self, u8_BCHW: Tensor, generator: torch.Generator, at: At | None = None) -> list[Tensor]:
        drawn = [self.sample((at and at.whole) or len(u8_BCHW), generator) for _ in range(self.count)]
        if at is not None and at.part is not None:
            drawn = [{key: values[at.part] for key, values in params.items()} for params in drawn]
        most = _AT_ONCE.get(u8_BCHW.device.type, _AT_ONCE["other"])
        n = max(1, most // max(1, len(u8_BCHW) * 3 * self.size**2))
        views: list[Tensor] = []
        for some in (drawn[i : i + n] for i in range(0, len(drawn), n)):
            views += self.apply(u8_BCHW, {key: torch.cat([p[key] for p in some]) for key in some[0]}).chunk(len(some))
        return views

    def sample(self, batch: int, generator: torch.Generator) -> Params:
        """Draws everything that is random: CPU tensors (B,), independent of the images' size.

        Keys: width, height (share of the image's side), x, y (place of the crop among the possible ones, 0 to 1),
        hflip, vflip, brightness, contrast, saturation (factors), hue (turns), grey, sigma (pixels of the view; 0: no
        blur), solarise.
        """
        cfg = self.cfg
        u = torch.rand(13, batch, generator=generator)

        def between(row: int, lo: float, hi: float) -> Tensor:
            return lo + (hi - lo) * u[row]

        jitter_B = u[4] < cfg.jitter

        def factor(row: int, strength: float) -> Tensor:
            return torch.where(jitter_B, between(row, max(0.0, 1 - strength), 1 + strength), 1.0)

        return {
            **_sample_crop(cfg, batch, generator),
            "x": u[0], "y": u[1], "hflip": u[2] < cfg.hflip, "vflip": u[3] < cfg.vflip,
            "brightness": factor(5, cfg.brightness), "contrast": factor(6, cfg.contrast),
            "saturation": factor(7, cfg.saturation), "hue": torch.where(jitter_B, between(8, -cfg.hue, cfg.hue), 0.0),
            "grey": u[9] < cfg.grey,
            "sigma": torch.where(u[10] < cfg.blur, between(11, *cfg.blur_radius), 0.0),
            "solarise": u[12] < cfg.solarise,
        }  # fmt: skip

    def apply(self, u8_BCHW: Tensor, params: Params) -> Tensor:
        """The views that `params` describe: uint8 (B, 3, H, W) -> float32 (B, 3, s, s) in [0, 1]. Nothing random.

        Parameters of n B rows describe n views of each image: the first of all, then the second of all.
        """
        blurred = (params["sigma"] > 0).nonzero().flatten()  # before it is moved: a GPU need not be waited for
        p = {k: v.to(u8_BCHW.device, non_blocking=True) for k, v in params.items()}
        x_BCss = self._geometry(u8_BCHW.float() / 255, p, blurred.to(u8_BCHW.device, non_blocking=True))
        if self.cfg.jitter > 0:
            x_BCss = _jitter(x_BCss, p, hue=self.cfg.hue > 0)
        if self.cfg.grey > 0:
            x_BCss = torch.where(_per_sample(p["grey"]), _grey(x_BCss), x_BCss)
        if self.cfg.solarise > 0:
            x_BCss = torch.where(_per_sample(p["solarise"]) & (x_BCss >= 0.5), 1 - x_BCss, x_BCss)
        return x_BCss

    def _geometry(self, x_BCHW: Tensor, p: Params, blurred: Tensor) -> Tensor:
        batch, _, height, width = x_BCHW.shape
        wy_BsH = _resize_matrix(p["height"], p["y"], height, self.size)
        wx_BsW = _resize_matrix(p["width"], p["x"], width, self.size)
        if self.cfg.vflip > 0:
            wy_BsH = torch.where(p["vflip"][:, None, None], wy_BsH.flip(1), wy_BsH)
        if self.cfg.hflip > 0:
            wx_BsW = torch.where(p["hflip"][:, None, None], wx_BsW.flip(1), wx_BsW)
        if len(blurred):
            blur_Nss = _blur_matrix(p["sigma"][blurred], self.size)
            wy_BsH[blurred], wx_BsW[blurred] = blur_Nss @ wy_BsH[blurred], blur_Nss @ wx_BsW[blurred]
        # columns first; a matrix product for each sample, the channels stacked as rows
        n = len(wx_BsW) // batch
        wx_BTW = wx_BsW.unflatten(0, (n, batch)).transpose(0, 1).flatten(1, 2)  # T = n s: all views of an image
        x_BCHns = (x_BCHW.flatten(1, 2) @ wx_BTW.mT).view(batch, 3, height, n, self.size)
        x_VCHs = x_BCHns.permute(3, 0, 1, 2, 4).flatten(0, 1)
        return (wy_BsH[:, None] @ x_VCHs).clamp_(0, 1)


def pack(params: Params) -> Tensor:
    """Everything that was drawn for B views as float32 (B, 13), to be written down; `unpack` gives it back exactly."""
    return torch.stack([params[key].float() for key in PARAMS], dim=1)


def unpack(packed_BP: Tensor) -> Params:
    columns = dict(zip(PARAMS, packed_BP.unbind(1), strict=True))
    return {key: column.bool() if key in _FLAGS else column for key, column in columns.items()}


class MultiCrop:
    """A plan of several kinds of views, in order: DINO's global views, then its local ones."""

    def __init__(self, cfg: ViewsConfig, image_size: int) -> None:
        self.kinds: Sequence[Views] = [Views(cfg.global_, image_size), Views(cfg.local, image_size)]

    def __call__(self, u8_BCHW: Tensor, generator: torch.Generator, at: At | None = None) -> list[Tensor]:
        return [view for kind in self.kinds for view in kind(u8_BCHW, generator, at)]


class Phases(Generic[P]):
    """One plan for the epochs before `epoch`, another one from then on."""

    def __init__(self, first: P, then: P, epoch: float) -> None:
        self.first, self.then, self.epoch = first, then, epoch

    def __call__(self, u8_BCHW: Tensor, generator: torch.Generator, at: At | None = None) -> list[Tensor]:
        plan: Any = self.then if at is not None and at.epoch >= self.epoch else self.first
        return list(plan(u8_BCHW, generator, at))


def _sample_crop(cfg: ViewConfig, batch: int, generator: torch.Generator) -> Params:
    """Width and height as shares of a square image's side: the first of ten tries that fits, else the largest crop."""
    u = torch.rand(2, _TRIES, batch, generator=generator)
    area = cfg.scale[0] + (cfg.scale[1] - cfg.scale[0]) * u[0]
    log_lo, log_hi = math.log(cfg.ratio[0]), math.log(cfg.ratio[1])
    aspect = torch.exp(log_lo + (log_hi - log_lo) * u[1])
    width, height = (area * aspect).sqrt(), (area / aspect).sqrt()
    fits = (width <= 1) & (height <= 1)
    first = fits.int().argmax(0, keepdim=True)
    fallback = ~fits.any(0)
    return {
        "width": torch.where(fallback, min(1.0, cfg.ratio[1]), width.gather(0, first)[0]),
        "height": torch.where(fallback, min(1.0, 1 / cfg.ratio[0]), height.gather(0, first)[0]),
    }


def _resize_matrix(share_B: Tensor, place_B: Tensor, n_in: int, n_out: int) -> Tensor:
    """Rows of bicubic weights, widened when shrinking, that see nothing outside the crop: (B, n_out, n_in)."""
    length_B = (share_B * n_in).round().clamp(1, n_in)
    start_B = (place_B * (n_in - length_B + 1)).floor().clamp(max=n_in - length_B)  # rounding may give the bound itself
    step_B11 = (length_B / n_out)[:, None, None]
    i_s1 = torch.arange(n_out, device=share_B.device, dtype=torch.float32)[:, None]
    pos_n = torch.arange(n_in, device=share_B.device, dtype=torch.float32)
    from_start_B1n = pos_n - start_B[:, None, None]
    inside = (from_start_B1n >= 0) & (from_start_B1n < length_B[:, None, None])
    w = _cubic((from_start_B1n + 0.5 - (i_s1 + 0.5) * step_B11) / step_B11.clamp(min=1)) * inside
    return w / w.sum(2, keepdim=True)


def _cubic(t: Tensor) -> Tensor:
    """Keys' cubic kernel with a = -0.5, zero from |t| = 2 on."""
    t = t.abs().clamp(max=2)
    near = (1.5 * t - 2.5) * t * t + 1
    far = ((-0.5 * t + 2.5) * t - 4) * t + 2
    return torch.where(t < 1, near, far)


def _blur_matrix(sigma_B: Tensor, n: int) -> Tensor:
    """Gaussian smoothing along one axis, renormalised at the edges: (B, n, n)."""
    i = torch.arange(n, device=sigma_B.device, dtype=torch.float32)
    d2 = (i[:, None] - i) ** 2
    w = torch.exp(-d2 / (2 * sigma_B[:, None, None] ** 2))
    return w / w.sum(2, keepdim=True)


def _per_sample(v_B: Tensor) -> Tensor:
    return v_B[:, None, None, None]


def _grey(x_BCHW: Tensor) -> Tensor:
    """Luma, (B, 1, H, W)."""
    r, g, b = x_BCHW.split(1, dim=1)
    return _LUMA[0] * r + _LUMA[1] * g + _LUMA[2] * b


def _jitter(x: Tensor, p: Params, *, hue: bool) -> Tensor:
    """Brightness, contrast, saturation, hue; clamped to [0, 1] after each, as images are."""
    x = (x * _per_sample(p["brightness"])).clamp_(0, 1)
    mean_B111 = _grey(x).mean((2, 3), keepdim=True)
    x = torch.lerp(mean_B111, x, _per_sample(p["contrast"])).clamp_(0, 1)
    x = torch.lerp(_grey(x), x, _per_sample(p["saturation"])).clamp_(0, 1)
    return _shift_hue(x, _per_sample(p["hue"])) if hue else x


def _shift_hue(x_BCHW: Tensor, turns_B111: Tensor) -> Tensor:
    """Turns the hue of HSV, value and saturation kept."""
    r, g, b = x_BCHW.split(1, dim=1)
    value, low = x_BCHW.amax(1, keepdim=True), x_BCHW.amin(1, keepdim=True)
    chroma = value - low
    scale = 1 / chroma.clamp(min=1e-8)  # grey has no hue: chroma 0 makes any of them harmless
    sixths = torch.where(value == r, (g - b) * scale, torch.where(value == g, (b - r) * scale + 2, (r - g) * scale + 4))
    offsets = torch.tensor([5.0, 3.0, 1.0], device=x_BCHW.device).view(1, 3, 1, 1)
    k = (sixths + 6 * turns_B111 + offsets) / 6
    k = (k - k.floor()) * 6  # remainder() is several times slower
    return value - chroma * torch.minimum(k, 4 - k).clamp_(0, 1)

"""Views: torchvision's functions as the reference for given parameters, its distributions, exact replay."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor
from torchvision.transforms import InterpolationMode, RandomResizedCrop
from torchvision.transforms import functional as TF

from lowdino_edge.data.views import MultiCrop, Params, Views
from lowdino_edge.settings import ViewConfig, ViewsConfig

OFF: dict[str, Any] = {
    "hflip": 0.0,
    "jitter": 0.0,
    "grey": 0.0,
    "blur": 0.0,
    "solarise": 0.0,
    "scale": (1.0, 1.0),
    "ratio": (1.0, 1.0),
}


def gen(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def images(batch: int, size: int, seed: int = 0) -> Tensor:
    """Smooth random pictures (noise alone would make every resampling look alike)."""
    small = torch.rand(batch, 3, 6, 6, generator=gen(seed))
    big = torch.nn.functional.interpolate(small, size=(size, size), mode="bicubic").clamp(0, 1)
    noise = torch.rand(batch, 3, size, size, generator=gen(seed + 1))
    return ((0.8 * big + 0.2 * noise) * 255).to(torch.uint8)


def plain(batch: int) -> Params:
    """Parameters of a view that is the image itself."""
    one, zero, no = torch.ones(batch), torch.zeros(batch), torch.zeros(batch, dtype=torch.bool)
    return {
        "width": one, "height": one, "x": zero, "y": zero, "hflip": no, "vflip": no, "brightness": one, "contrast": one,
        "saturation": one, "hue": zero, "grey": no, "sigma": zero, "solarise": no,
    }  # fmt: skip


@pytest.mark.parametrize(("image", "view"), [(32, 24), (32, 32), (24, 48), (40, 16)])
def test_crop_and_flips_equal_torchvision(image: int, view: int) -> None:
    u8 = images(20, image)
    views = Views(
        ViewConfig(size=view, **{**OFF, "hflip": 0.5, "vflip": 0.5, "scale": (0.1, 1.0), "ratio": (0.6, 1.6)}), image
    )
    p = views.sample(20, gen())
    got = views.apply(u8, p)
    for i in range(20):
        w, h = (max(1, round(float(p[k][i]) * image)) for k in ("width", "height"))
        left, top = int(p["x"][i] * (image - w + 1)), int(p["y"][i] * (image - h + 1))
        x = u8[i].float() / 255
        want = TF.resized_crop(x, top, left, h, w, [view, view], InterpolationMode.BICUBIC, antialias=True).clamp(0, 1)
        want = TF.hflip(want) if p["hflip"][i] else want
        want = TF.vflip(want) if p["vflip"][i] else want
        torch.testing.assert_close(got[i], want, atol=2e-5, rtol=0)


JITTERS = [
    ({"brightness": 0.7}, lambda x: TF.adjust_brightness(x, 0.7)),
    ({"brightness": 1.4}, lambda x: TF.adjust_brightness(x, 1.4)),
    ({"contrast": 0.6}, lambda x: TF.adjust_contrast(x, 0.6)),
    ({"contrast": 1.7}, lambda x: TF.adjust_contrast(x, 1.7)),
    ({"saturation": 0.0}, lambda x: TF.adjust_saturation(x, 0.0)),
    ({"saturation": 1.8}, lambda x: TF.adjust_saturation(x, 1.8)),
    ({"hue": 0.1}, lambda x: TF.adjust_hue(x, 0.1)),
    ({"hue": -0.43}, lambda x: TF.adjust_hue(x, -0.43)),
    (
        {"brightness": 1.3, "contrast": 0.8, "saturation": 1.5, "hue": 0.07},
        lambda x: TF.adjust_hue(TF.adjust_saturation(TF.adjust_contrast(TF.adjust_brightness(x, 1.3), 0.8), 1.5), 0.07),
    ),
    ({"grey": True}, lambda x: TF.rgb_to_grayscale(x, 3)),
    ({"solarise": True}, lambda x: TF.solarize(x, 0.5)),
]


@pytest.mark.parametrize(("params", "reference"), JITTERS, ids=[str(p) for p, _ in JITTERS])
def test_colour_equals_torchvision(params: dict[str, Any], reference: Any) -> None:
    u8 = images(8, 16)
    u8[0], u8[1], u8[2] = 0, 255, 128  # black, white, grey: no hue, no chroma
    views = Views(ViewConfig(**{**OFF, "jitter": 1.0, "grey": 0.5, "solarise": 0.5}), 16)
    p = plain(8)
    for key, value in params.items():
        p[key] = torch.full((8,), value)
    torch.testing.assert_close(views.apply(u8, p), reference(u8.float() / 255), atol=2e-5, rtol=0)


def test_blur_equals_torchvision_away_from_the_edge() -> None:
    u8 = images(4, 40)
    p = plain(4)
    p["sigma"] = torch.tensor([0.0, 0.5, 1.0, 2.0])
    got = Views(ViewConfig(**{**OFF, "blur": 0.5}), 40).apply(u8, p)
    x = u8.float() / 255
    torch.testing.assert_close(got[0], x[0], atol=1e-6, rtol=0)
    for i in (1, 2, 3):
        want = TF.gaussian_blur(x[i], [25, 25], [float(p["sigma"][i])] * 2)
        torch.testing.assert_close(got[i, :, 14:-14, 14:-14], want[:, 14:-14, 14:-14], atol=1e-4, rtol=0)


@pytest.mark.parametrize(
    ("scale", "ratio"), [((0.05, 0.4), (3 / 4, 4 / 3)), ((0.4, 1.0), (3 / 4, 4 / 3)), ((0.95, 1.0), (1.8, 2.0))]
)
def test_crops_are_distributed_as_torchvisions(scale: tuple[float, float], ratio: tuple[float, float]) -> None:
    """Moments of width, height and place over thousands of crops, also where no crop fits and the fallback is taken."""
    torch.manual_seed(0)
    n, size = 4000, 200
    boxes = torch.tensor(
        [RandomResizedCrop.get_params(torch.empty(3, size, size), list(scale), list(ratio)) for _ in range(n)]
    )
    p = Views(ViewConfig(scale=scale, ratio=ratio), size).sample(4 * n, gen())
    for name, place, theirs_place, theirs in (
        ("height", "y", boxes[:, 0], boxes[:, 2]),
        ("width", "x", boxes[:, 1], boxes[:, 3]),
    ):
        share = theirs.double() / size
        assert float(p[name].mean()) == pytest.approx(float(share.mean()), abs=0.008)
        assert float(p[name].std()) == pytest.approx(float(share.std()), abs=0.008)
        offset = (p[place] * (1 - p[name])).double()
        assert float(offset.mean()) == pytest.approx(float((theirs_place / size).double().mean()), abs=0.01)


def test_factors_cover_their_ranges() -> None:
    jitter = {"jitter": 0.7, "brightness": 0.4, "contrast": 0.3, "saturation": 1.0, "hue": 0.2}
    cfg = ViewConfig(**jitter, hflip=0.3, grey=0.25, blur=0.6, solarise=0.1)
    p = Views(cfg, 32).sample(20_000, gen())
    for name, strength in (("brightness", 0.4), ("contrast", 0.3), ("saturation", 1.0)):
        drawn = p[name][p[name] != 1]
        assert len(drawn) / 20_000 == pytest.approx(0.7, abs=0.02)
        assert 1 - strength <= float(drawn.min()) < 1 - 0.98 * strength
        assert 1 + 0.98 * strength < float(drawn.max()) <= 1 + strength
        assert float(drawn.mean()) == pytest.approx(1, abs=0.02)
    assert float(p["hue"].abs().max()) == pytest.approx(0.2, abs=1e-3)
    for name, rate in (("hflip", 0.3), ("vflip", 0.0), ("grey", 0.25), ("solarise", 0.1)):
        assert float(p[name].float().mean()) == pytest.approx(rate, abs=0.02)
    blurred = p["sigma"][p["sigma"] > 0]
    assert len(blurred) / 20_000 == pytest.approx(0.6, abs=0.02)
    assert 0.1 <= float(blurred.min()) < float(blurred.max()) <= 0.5


def test_recorded_parameters_replay_exactly() -> None:
    views = Views(ViewConfig(solarise=0.3, blur=0.5, vflip=0.5), 24)
    u8 = images(6, 32)
    p = views.sample(6, gen(5))
    first = views.apply(u8, p)
    assert torch.equal(first, views.apply(u8, {k: v.clone() for k, v in p.items()}))
    assert torch.equal(first, views(u8, gen(5))[0])
    assert not torch.equal(first, views(u8, gen(6))[0])


def test_every_sample_has_its_own_parameters() -> None:
    u8 = images(1, 32).expand(16, -1, -1, -1)
    out = Views(ViewConfig(), 32)(u8, gen())[0]
    assert len({tuple(x.flatten()[:50].tolist()) for x in out}) == 16


def test_a_sample_does_not_depend_on_its_neighbours() -> None:
    views, u8 = Views(ViewConfig(blur=0.5), 24), images(6, 32)
    p = views.sample(6, gen())
    alone = views.apply(u8[2:3], {k: v[2:3] for k, v in p.items()})
    torch.testing.assert_close(views.apply(u8, p)[2:3], alone, atol=1e-6, rtol=0)


def test_probability_zero_leaves_the_image_and_one_changes_all() -> None:
    u8 = images(8, 16)
    x = u8.float() / 255
    torch.testing.assert_close(Views(ViewConfig(**OFF), 16)(u8, gen())[0], x, atol=1e-6, rtol=0)
    flipped = Views(ViewConfig(**{**OFF, "hflip": 1.0, "vflip": 1.0}), 16)(u8, gen())[0]
    torch.testing.assert_close(flipped, x.flip(2, 3), atol=1e-6, rtol=0)
    grey = Views(ViewConfig(**{**OFF, "grey": 1.0}), 16)(u8, gen())[0]
    assert torch.equal(grey[:, 0], grey[:, 1]) and torch.equal(grey[:, 1], grey[:, 2])
    for key in ("jitter", "blur", "solarise"):
        changed = Views(ViewConfig(**{**OFF, key: 1.0, "blur_radius": (0.5, 1.0)}), 16)(u8, gen())[0]
        assert ((changed - x).abs().amax((1, 2, 3)) > 1e-3).all(), key


def test_values_stay_in_range_and_extremes_are_finite() -> None:
    u8 = images(32, 9)
    cfg = ViewConfig(
        size=17, scale=(0.001, 1.0), ratio=(0.2, 5.0), jitter=1.0, brightness=1, contrast=1, saturation=1, hue=0.5,
        blur=1.0, blur_radius=(0.01, 9.0), solarise=0.5, grey=0.5,
    )  # fmt: skip
    out = Views(cfg, 9)(u8, gen())[0]
    assert out.shape == (32, 3, 17, 17) and out.dtype == torch.float32
    assert torch.isfinite(out).all() and float(out.min()) >= 0 and float(out.max()) <= 1


def test_multicrop_gives_globals_then_locals() -> None:
    cfg = ViewsConfig.model_validate({"global": {"count": 2}, "local": {"count": 3, "size": 16}})
    out = MultiCrop(cfg, 32)(images(4, 40), gen())
    assert [tuple(v.shape) for v in out] == [(4, 3, 32, 32)] * 2 + [(4, 3, 16, 16)] * 3
    assert not torch.equal(out[0], out[1])

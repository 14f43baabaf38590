"""Images with copies planted among them: made smaller or larger, re-encoded, cropped, mirrored, brightened, and all at
once."""

from __future__ import annotations

import io

import numpy as np
from PIL import Image, ImageEnhance, ImageOps

Rng = np.random.Generator


def resized(image: Image.Image, rng: Rng) -> Image.Image:
    f = float(rng.choice([0.5, 0.75, 1.5, 2.0]))
    how = rng.choice([Image.Resampling.BILINEAR, Image.Resampling.BICUBIC, Image.Resampling.LANCZOS])
    return image.resize((max(8, round(image.width * f)), max(8, round(image.height * f))), Image.Resampling(how))


def encoded(image: Image.Image, rng: Rng) -> Image.Image:
    buffer = io.BytesIO()
    image.save(buffer, "JPEG" if rng.random() < 0.7 else "WEBP", quality=int(rng.choice([30, 50, 75, 90])))
    return Image.open(buffer).convert("RGB")


def cropped(image: Image.Image, rng: Rng) -> Image.Image:
    """90% of each side or of the area, anywhere, enlarged again or not."""
    kept = 0.9 if rng.random() < 0.7 else 0.9**0.5
    width, height = round(image.width * kept), round(image.height * kept)
    x, y = int(rng.integers(0, image.width - width + 1)), int(rng.integers(0, image.height - height + 1))
    crop = image.crop((x, y, x + width, y + height))
    return crop.resize(image.size, Image.Resampling.BICUBIC) if rng.random() < 0.5 else crop


def mirrored(image: Image.Image, rng: Rng) -> Image.Image:
    return ImageOps.mirror(image)


def brightened(image: Image.Image, rng: Rng) -> Image.Image:
    """By a factor or by grey levels; what is white already stays white."""
    if rng.random() < 0.5:
        return ImageEnhance.Brightness(image).enhance(float(rng.choice([1.2, 1.4, 1.6])))
    more = np.asarray(image).astype(int) + int(rng.choice([25, 50]))
    return Image.fromarray(np.clip(more, 0, 255).astype(np.uint8))


STEPS = {
    "cropped": cropped, "mirrored": mirrored, "brightened": brightened, "resized": resized, "encoded": encoded,
}  # fmt: skip
KINDS = (*STEPS, "combined")


def plant(image: Image.Image, kind: str, rng: Rng) -> Image.Image:
    """A changed copy; `combined` takes two to four changes, in the order of STEPS."""
    some = [kind] if kind != "combined" else list(rng.choice(list(STEPS), int(rng.integers(2, 5)), replace=False))
    for name, step in STEPS.items():
        if name in some:
            image = step(image, rng)
    return image

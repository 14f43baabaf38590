"""One small student as every .tflite file there is, written where torch and the converter are.

    python tests/older_litert/write_artifacts.py DIR

makes DIR/tflite-<scheme>/ for the interpreter of another environment (`make test-tflite-runtime`).
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

SIZE, IMAGES = 32, 160


def write(out: Path) -> None:
    """Exports below `out`, by the same call as `lowdino export` makes."""
    import numpy as np
    import torch
    from PIL import Image

    from lowdino_edge import api
    from lowdino_edge.config import load_recipe
    from lowdino_edge.data.synthetic import SyntheticImages
    from lowdino_edge.export import TARGETS
    from lowdino_edge.models.backbone import build_student
    from lowdino_edge.models.student_file import save_student

    drawn = SyntheticImages("train", IMAGES, SIZE)
    u8_NHWC = np.stack([drawn.image(i) for i in range(IMAGES)])
    x_NCHW = torch.from_numpy(u8_NHWC).permute(0, 3, 1, 2).float() / 255
    student = build_student("nano", SIZE, seed=0).train()
    with torch.no_grad():  # int8 ranges of BatchNorms that have seen nothing say nothing
        for batch in x_NCHW.split(32):
            student(batch)
    with tempfile.TemporaryDirectory() as tmp:
        photos, weights = Path(tmp) / "photos", Path(tmp) / "student.safetensors"
        photos.mkdir()  # flat: without labels
        for i, image in enumerate(u8_NHWC):
            Image.fromarray(image).save(photos / f"{i:03}.png")
        save_student(student.eval(), weights, {})
        recipe = load_recipe(None, [f"data.source={photos}", "export.calibration_images=64", "export.parity_images=48"])
        api.export(str(weights), targets=["tflite"], schemes=TARGETS["tflite"].schemes, out=out, recipe=recipe)


if __name__ == "__main__":
    write(Path(sys.argv[1]))

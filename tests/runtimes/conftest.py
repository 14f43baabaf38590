"""`micro`'s exported files, each made once."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from micro import Micro

from lowdino_edge.artifact import Artifact
from lowdino_edge.prove import export_verified


@pytest.fixture(scope="session")
def exported(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Artifact]:
    """exported("onnx"): the float file of a target, proven."""
    made: dict[str, Artifact] = {}

    def get(target: str) -> Artifact:
        if target not in made:
            images = (np.random.default_rng(0).integers(0, 256, (8, 3, 16, 16)) / 255).astype(np.float32)
            out = tmp_path_factory.mktemp(target)
            made[target] = export_verified(Micro(), target, "none", None, images, out)  # type: ignore[arg-type]
        return made[target]

    return get

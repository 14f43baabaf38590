"""Every target, by its name."""

from __future__ import annotations

import on_artifacts
import on_caches
import on_devices
import on_images
import on_results
import on_serve
import on_sets
import on_sources
import on_texts
import on_weights
from engine import Target

_MODULES = (
    on_images,
    on_sources,
    on_sets,
    on_texts,
    on_weights,
    on_caches,
    on_artifacts,
    on_results,
    on_serve,
    on_devices,
)
TARGETS: dict[str, Target] = {t.name: t for module in _MODULES for t in module.TARGETS}

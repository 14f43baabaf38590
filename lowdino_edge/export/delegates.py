"""ExecuTorch with the Core ML or the Vulkan delegate: float, or float16 where the delegate computes.

Experimental. They lower on any machine, but only an Apple device or a Vulkan GPU runs what they write, so nothing here
proves the files.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from lowdino_edge.errors import missing_extra
from lowdino_edge.export import base
from lowdino_edge.export.base import Source
from lowdino_edge.export.coreml import deployment_target
from lowdino_edge.export.executorch import check_delegation, delegation_of


class Coreml:
    """`.pte` whose work Core ML does: CPU, GPU and Neural Engine of Apple's devices."""

    @staticmethod
    def lower(source: Source, scheme: str, path: Path) -> dict[str, Any]:
        """Writes `path`. Reads `source.options["deployment_target"]`, as target coreml does.

        Raises:
            UserError: a missing package, an operator that does not convert, too much left outside Core ML.
        """
        ios = deployment_target(source.options, scheme)
        try:
            with base.quiet():
                import coremltools as ct
                from executorch.backends.apple.coreml.compiler import CoreMLBackend
                from executorch.backends.apple.coreml.partition import CoreMLPartitioner
        except ImportError as e:
            raise _missing(e) from None
        specs = CoreMLBackend.generate_compile_specs(
            minimum_deployment_target=getattr(ct.target, ios),
            compute_precision=ct.precision.FLOAT16 if scheme == "fp16" else ct.precision.FLOAT32,
        )
        card = _lower(source, scheme, path, "executorch-coreml", CoreMLPartitioner(compile_specs=specs))
        card["toolchain"] |= {**base.versions("coremltools"), "deployment_target": ios}
        return card


class Vulkan:
    """`.pte` whose work a GPU does through Vulkan: Android phones, Linux boards."""

    @staticmethod
    def lower(source: Source, scheme: str, path: Path) -> dict[str, Any]:
        """Writes `path`.

        Raises:
            UserError: a missing package, an operator that does not convert, too much left outside Vulkan.
        """
        try:
            with base.quiet():
                from executorch.backends.vulkan.partitioner.vulkan_partitioner import VulkanPartitioner
        except ImportError as e:
            raise _missing(e) from None
        partitioner = VulkanPartitioner({"force_fp16": scheme == "fp16"})
        return _lower(source, scheme, path, "executorch-vulkan", partitioner)


def _missing(error: ImportError) -> Exception:
    name = error.name or "executorch"
    return missing_extra(name, "coreml" if name.startswith("coremltools") else "executorch")


def _lower(source: Source, scheme: str, path: Path, target: str, partitioner: Any) -> dict[str, Any]:
    from executorch.exir import to_edge_transform_and_lower

    to = target.removeprefix("executorch-")
    try:
        with base.quiet(), torch.no_grad():
            edge = to_edge_transform_and_lower(source.program(), partitioner=[partitioner])
            delegation = delegation_of(edge.exported_program(), to)
            content = edge.to_executorch().buffer
    except Exception as e:
        raise base.conversion_error(target, scheme, source.student, e, source.network.program) from e
    check_delegation(source.student, delegation, {"coreml": "Core ML", "vulkan": "Vulkan"}[to])
    path.write_bytes(content)
    return {
        **base.io_card(source.student),
        "delegation": delegation,
        "toolchain": base.versions("torch", "executorch"),
    }

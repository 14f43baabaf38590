"""Apple's Core AI (.aimodel), experimental: it converts on Linux, and nothing but macOS 27 or iOS 27 can run the file.

The file is a directory. Its input is a float32 tensor, RGB in [0, 1]; normalisation stays inside, as everywhere.
"""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from lowdino_edge.errors import missing_extra
from lowdino_edge.export import base
from lowdino_edge.export.base import Source
from lowdino_edge.quant.prepare import example


class _Half(nn.Module):
    """float32 in, float32 out, float16 weights and sums in between."""

    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        self.module = copy.deepcopy(module).half()

    def forward(self, x_BCHW: Tensor) -> Tensor:
        z_BD: Tensor = self.module(x_BCHW.half())
        return z_BD.float()


def lower(source: Source, scheme: str, path: Path) -> dict[str, Any]:
    """Writes the directory `path` (its name must end in .aimodel).

    Raises:
        UserError: a missing package, an operator that does not convert.
    """
    try:
        with base.quiet():
            from coreai_torch import TorchConverter, get_decomp_table
    except ImportError as e:
        raise missing_extra(e.name or "coreai-torch", "coreai") from None
    student = source.student
    try:
        with base.quiet(), torch.no_grad():
            module = source.module()
            given = (example(source.network.size),)
            program = torch.export.export(_Half(module) if scheme == "fp16" else module, given)
            program = program.run_decompositions(get_decomp_table())
            names = {"input_names": [base.INPUT], "output_names": [base.OUTPUT]}
            model = TorchConverter().add_exported_program(program, **names).to_coreai()
            model.save_asset(path)
    except Exception as e:
        raise base.conversion_error("coreai", scheme, student, e, source.network.program) from e
    return {
        **base.io_card(student),
        "delegation": {"coverage": None, "left": [], "note": "Core AI picks CPU, GPU or Neural Engine on the device"},
        "compute_precision": "float16" if scheme == "fp16" else "float32",
        "note": "experimental: converted, never run; for iOS 27, macOS 27 and later",
        "toolchain": base.versions("torch", "coreai-torch", "coreai-core"),
    }

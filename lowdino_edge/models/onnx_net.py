"""A frozen network in an ONNX file, called like a torch module.

Suffixes: B batch, C channels, H and W pixels, D embedding width.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from lowdino_edge.errors import UserError, missing_extra
from lowdino_edge.run import sha256


class OnnxNet(nn.Module):
    """(B, 3, H, W) normalised images -> (B, D): the first output, averaged over whatever lies between B and D.

    Attributes:
        image_size: what the file says, None where it takes any.
        sha256: of the file.

    Raises:
        UserError: no onnxruntime, no such file, not readable, or an input that is not (batch, 3, height, width).
    """

    def __init__(self, file: Path) -> None:
        super().__init__()
        if not file.is_file():
            raise UserError(f"no ONNX file at '{file}'", "check the path")
        os.environ["ORT_DISABLE_TELEMETRY"] = "1"  # read at import
        try:
            import onnxruntime as ort
        except ImportError:
            raise missing_extra("onnxruntime", "onnx") from None
        self.sha256 = sha256(file)
        options = ort.SessionOptions()
        options.log_severity_level = 3  # errors only
        options.intra_op_num_threads = torch.get_num_threads()
        try:
            self.session: Any = ort.InferenceSession(str(file), options, providers=ort.get_available_providers())
        except Exception as e:
            reason = (str(e).splitlines() or [type(e).__name__])[0][:160]
            raise UserError(f"cannot read '{file}' as an ONNX network: {reason}", "export it again") from None
        given = self.session.get_inputs()
        shape = given[0].shape
        if len(given) != 1 or len(shape) != 4 or shape[1] != 3:
            raise UserError(f"'{file}' does not take images (batch, 3, height, width)", "export it with such an input")
        self.input, self.output = given[0].name, self.session.get_outputs()[0].name
        self.image_size = shape[2] if isinstance(shape[2], int) else None
        self.batch = shape[0] if isinstance(shape[0], int) else None
        self.register_buffer("where", torch.zeros(1), persistent=False)  # the device of what calls it

    def forward(self, x_BCHW: Tensor) -> Tensor:
        x = np.ascontiguousarray(x_BCHW.detach().cpu().numpy(), np.float32)
        step = self.batch or len(x)
        if len(x) % step:
            raise ValueError(f"the file takes {step} images at once, not {len(x)}")
        try:
            parts = [self.session.run([self.output], {self.input: x[i : i + step]})[0] for i in range(0, len(x), step)]
        except Exception as e:  # its errors have no base class but this one
            raise RuntimeError(" ".join(str(e).split())[:300]) from None
        z = torch.from_numpy(np.concatenate(parts)).to(x_BCHW.device)
        return z.flatten(2).mean(2) if z.ndim > 2 else z

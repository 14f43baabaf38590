"""lowdino: train, distill, quantize, export and prove vision backbones under five million parameters."""

import os

__version__ = "0.1.0"

os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")  # onnxruntime reports its use unless told not to before its import

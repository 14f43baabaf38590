"""lowdino: train, distill, quantize, export and prove vision backbones under five million parameters."""

__version__ = "0.1.0"

"""Which students are known to convert to which target, for errors that name one that works. No guesses: every entry
was converted at 64 px, those of the proven targets by `make matrix`.

A test holds that families and sizes are those of `lowdino_edge.models.students`, and targets those of docs/matrix.json.
"""

from __future__ import annotations

FAMILIES: dict[str, tuple[str, int]] = {  # family, parameters
    "nano": ("cnn", 1_152_384),
    "resnet5m": ("cnn", 4_956_480),
    "mobilenetv4_conv_small": ("cnn", 2_493_024),
    "mobilenetv4_conv_small_050": ("cnn", 957_952),
    "mobilevit_s": ("hybrid", 4_937_632),
    "mobilevit_xs": ("hybrid", 1_932_848),
    "repvit_m0_9": ("cnn", 4_717_792),
    "edgenext_x_small": ("hybrid", 2_143_804),
    "efficientvit_b0": ("hybrid", 2_129_008),
    "starnet_s1": ("cnn", 2_676_168),
    "fastvit_t8": ("hybrid", 3_257_232),
    "convnext_atto": ("cnn", 3_374_520),
    "vit_tiny_d10": ("vit", 4_634_688),
}

_ALL = tuple(FAMILIES)
_TRIED = ("nano", "mobilenetv4_conv_small")
FLOAT: dict[str, tuple[str, ...]] = {  # `none`, and what only stores weights otherwise
    "onnx": _ALL,
    "executorch": _ALL,
    "coreml": _ALL,
    "tflite": _ALL,
    "executorch-coreml": _TRIED,
    "executorch-vulkan": _TRIED,
}
INT8: dict[str, tuple[str, ...]] = dict.fromkeys(("onnx", "executorch", "coreml", "tflite"), _ALL)  # w8a8


def nearest(target: str, scheme: str, student: str, params: int) -> str | None:
    """The known student of the same family that is closest in size, another one of any family where that has none.

    Args:
        student: the id that failed; it is never offered, also where it converts at another image size.
    """
    known = [s for s in (INT8 if scheme == "w8a8" else FLOAT).get(target, ()) if s != student]
    family = FAMILIES[student][0] if student in FAMILIES else None
    relatives = [s for s in known if FAMILIES[s][0] == family]
    return min(relatives or known, key=lambda s: abs(FAMILIES[s][1] - params), default=None)

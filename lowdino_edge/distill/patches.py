"""Patches of a teacher's last map in 8 bits: around their mean, whole or as their principal components.

Shapes: N patches of the sample, D teacher width, S kept width, B images, P patches an image.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lowdino_edge import reading
from lowdino_edge.run import atomic_path
from lowdino_edge.types import Float

PATCHES = "patches.npz"
_SHARE = 0.9999  # of the values that are not clipped


@dataclass(frozen=True)
class PatchCode:
    """x -> round((x - mean) basis / scale), clipped to int8.

    Attributes:
        mean_D: of the sample.
        basis_DS: orthonormal columns, the strongest first; None: all D as they are.
        scale_S: one step of each kept number.
        explained: share of the sample's variance that is kept, before rounding.
    """

    mean_D: Float
    basis_DS: Float | None
    scale_S: Float
    explained: float

    @classmethod
    def fit(cls, x_ND: Float, width: int) -> PatchCode:
        mean_D = x_ND.mean(0, dtype=np.float64).astype(np.float32)
        centred_ND = x_ND - mean_D
        basis_DS, explained = None, 1.0
        if width < x_ND.shape[1]:
            values_D, vectors_DD = np.linalg.eigh(centred_ND.T.astype(np.float64) @ centred_ND)
            basis_DS = np.ascontiguousarray(vectors_DD[:, ::-1][:, :width]).astype(np.float32)
            explained = float(values_D[::-1][:width].sum() / max(values_D.sum(), 1e-30))
        kept_NS = centred_ND if basis_DS is None else centred_ND @ basis_DS
        scale_S = np.quantile(np.abs(kept_NS), _SHARE, axis=0).astype(np.float32) / 127
        return cls(mean_D, basis_DS, np.maximum(scale_S, 1e-12), explained)

    def pack(self, x_BPD: Float) -> NDArray[np.int8]:
        kept_BPS = x_BPD - self.mean_D
        if self.basis_DS is not None:
            kept_BPS = kept_BPS @ self.basis_DS
        return np.clip(np.rint(kept_BPS / self.scale_S), -127, 127).astype(np.int8)

    def unpack(self, packed_BPS: NDArray[np.int8]) -> Float:
        """The kept numbers, (B, P, S): patches around their mean, in the basis."""
        return packed_BPS.astype(np.float32) * self.scale_S

    def write(self, path: Path) -> None:
        basis: dict[str, Any] = {} if self.basis_DS is None else {"basis": self.basis_DS}
        with atomic_path(path) as tmp, tmp.open("wb") as f:
            np.savez(f, mean=self.mean_D, scale=self.scale_S, explained=np.float64(self.explained), **basis)

    @classmethod
    def read(cls, path: Path) -> PatchCode:
        """Raises `reading.Damaged`."""
        f = reading.arrays(path, ("mean", "scale", "explained"), ("basis",))
        try:
            return cls(f["mean"], f.get("basis"), f["scale"], float(f["explained"]))
        except (TypeError, ValueError) as e:
            raise reading.Damaged(e) from None

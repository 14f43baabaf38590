"""What a training leaves to look at besides metrics.jsonl: metrics.csv, TensorBoard's events, a picture of the views.

Only the leading one of several processes writes.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image

from lowdino_edge import parallel
from lowdino_edge.errors import UserError
from lowdino_edge.methods.base import Batch
from lowdino_edge.run import Run, atomic_path, write_text
from lowdino_edge.types import UInt8

if TYPE_CHECKING:
    from lowdino_edge.data.pixels import Pixels

_SHOWN, _CELL, _GAP = 8, 96, 4  # images of the preview; pixels


class Logs:
    """metrics.jsonl line by line, and what else was asked for.

    Args:
        kinds: "csv": metrics.csv, the same rows as a table, whenever kNN is measured and at the end; "tensorboard":
            events below tensorboard/, every row as it comes.
        start: steps that are done; what was logged beyond them is void.

    Raises:
        UserError: TensorBoard is not installed.
    """

    def __init__(self, run: Run, kinds: Sequence[str], start: int = 0) -> None:
        self.run, self.kinds = run, kinds if parallel.leads() else ()
        self._events: Any = None
        if "tensorboard" in self.kinds:
            try:
                from torch.utils.tensorboard import SummaryWriter
            except ImportError:
                raise UserError("TensorBoard is not installed", "pip install tensorboard, or leave it out") from None
            self._events = SummaryWriter(str(run.path / "tensorboard"), purge_step=start + 1)

    def row(self, *, step: int, epoch: float, **values: float) -> None:
        if not parallel.leads():
            return
        self.run.log(step=step, epoch=epoch, **values)
        if self._events is not None:
            for name, value in values.items():
                self._events.add_scalar(name, value, step)

    def table(self) -> None:
        """Writes metrics.csv anew: a resumed run's is that of a run that was never stopped."""
        if "csv" not in self.kinds:
            return
        rows = self.run.history()
        names = list(dict.fromkeys(name for row in rows for name in row))
        text = io.StringIO()
        writer = csv.DictWriter(text, names, lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
        write_text(self.run.path / "metrics.csv", text.getvalue())

    def close(self) -> None:
        self.table()
        if self._events is not None:
            self._events.close()


def preview(run: Run, pixels: Pixels, batch: Batch) -> None:
    """views.png: a row for each of the first images of a batch, as it is and then each of its views."""
    if not parallel.leads():
        return
    rows = []
    for i in range(min(_SHOWN, len(batch.index_B))):
        original = pixels.u8_NCHW[int(batch.index_B[i])]
        views = [(v[i].detach().float().cpu().clamp(0, 1) * 255).round().byte().numpy() for v in batch.views]
        rows.append([_cell(chw) for chw in (original, *views)])
    height, width = len(rows) * (_CELL + _GAP) + _GAP, len(rows[0]) * (_CELL + _GAP) + 2 * _GAP
    sheet = Image.new("RGB", (width, height), "white")
    for y, cells in enumerate(rows):
        for x, cell in enumerate(cells):
            # the image stands a little apart from its views
            sheet.paste(cell, (_GAP + x * (_CELL + _GAP) + (_GAP if x else 0), _GAP + y * (_CELL + _GAP)))
    with atomic_path(run.path / "views.png") as tmp:
        sheet.save(tmp, "png")


def _cell(u8_CHW: UInt8) -> Image.Image:
    image = Image.fromarray(np.ascontiguousarray(u8_CHW.transpose(1, 2, 0)))
    return image.resize((_CELL, _CELL), Image.Resampling.BICUBIC)

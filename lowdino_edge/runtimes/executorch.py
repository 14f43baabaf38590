"""ExecuTorch's own runtime through its Python bindings, XNNPACK computing."""

from __future__ import annotations

import re
import weakref
from pathlib import Path
from typing import Any

from lowdino_edge.errors import UserError, missing_extra
from lowdino_edge.quiet import quiet
from lowdino_edge.runtimes.base import FileEncoder
from lowdino_edge.types import Encoder, Float

_loaded: weakref.WeakSet[Any] = weakref.WeakSet()


def load(path: Path, meta: dict[str, Any], threads: int) -> Encoder:
    """The file as an Encoder.

    The thread pool belongs to the process, and loaded programs keep pointing at it, so it is only changed while no
    program is loaded; `threads` of the encoder says how many there really are.

    Raises:
        UserError: executorch is not installed, has no XNNPACK, or refuses the file.
    """
    try:
        with quiet():
            import torch
            from executorch.runtime import Runtime
    except ImportError:
        raise missing_extra("executorch", "executorch") from None
    from importlib import metadata

    runtime = Runtime.get()
    if not runtime.backend_registry.is_available("XnnpackBackend"):
        raise UserError("this executorch has no XNNPACK", "pip install 'lowdino-edge[executorch]'")
    try:
        with quiet():
            actual = _set_threads(threads)
            program = runtime.load_program(path)
            method = program.load_method("forward")
    except Exception as e:
        said = "\n".join(getattr(e, "__notes__", []))
        lacking = sorted(set(re.findall(r"[Mm]issing operator: (?:\[\d+\] )?([\w:.]+)", said)))
        why = f"it has no kernel for {', '.join(lacking)}" if lacking else str(e)
        raise UserError(f"executorch cannot load '{path.name}': {why}", "use another target, or export it again") from e
    assert method is not None

    def run_one(x_1CHW: Float) -> Any:
        return method.execute((torch.from_numpy(x_1CHW),))[0].numpy()

    version = f"executorch {metadata.version('executorch')}, XNNPACK"
    encoder = FileEncoder(meta, run_one, method=version, threads=actual, delegate="xnnpack")
    _loaded.add(encoder)
    return encoder


def _set_threads(threads: int) -> int | None:
    """Sets the process's pool where that is safe; returns how many threads it has, None where it does not tell."""
    try:
        from executorch.extension.pybindings.portable_lib import (
            _threadpool_get_thread_count,
            _unsafe_reset_threadpool,
        )
    except ImportError:
        return None
    if _threadpool_get_thread_count() != threads and not _loaded:
        _unsafe_reset_threadpool(threads)
    return int(_threadpool_get_thread_count())

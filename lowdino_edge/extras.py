"""What `pip install 'lowdino-edge[EXTRA]'` leaves out on this platform, read from the package's own metadata."""

from __future__ import annotations

import platform
from importlib import metadata


def left_out(package: str, extra: str) -> bool:
    """Whether the extra names `package` only for other platforms, so that installing it does not bring the package.

    Args:
        package: as pip or as Python names it, `litert-torch` or `litert_torch`.
    """
    from packaging.requirements import Requirement
    from packaging.utils import canonicalize_name

    try:
        listed = metadata.requires("lowdino-edge") or []
    except metadata.PackageNotFoundError:  # run from its sources
        return False
    name = canonicalize_name(package.partition(".")[0])
    markers = [
        r.marker
        for r in map(Requirement, listed)
        if canonicalize_name(r.name) == name and r.marker is not None and f'extra == "{extra}"' in str(r.marker)
    ]
    return bool(markers) and not any(marker.evaluate({"extra": extra}) for marker in markers)


def here() -> str:
    """This platform as a reader knows it, such as `Windows on AMD64`."""
    return f"{platform.system()} on {platform.machine()}"

"""The wheel and the sdist, built once and offline, and an environment that holds the wheel and what it requires."""

from __future__ import annotations

import subprocess
import sys
import venv
from importlib import metadata
from pathlib import Path

import pytest
from built_wheel import ROOT, Built
from packaging.requirements import Requirement


@pytest.fixture(scope="session")
def built(tmp_path_factory: pytest.TempPathFactory) -> Built:
    """As `python -m build` makes them: the sdist of the checkout, and the wheel of the sdist."""
    out = tmp_path_factory.mktemp("dist")
    subprocess.run([sys.executable, "-m", "build", "--no-isolation", "-o", out, ROOT], check=True, capture_output=True)
    (wheel,), (sdist,) = out.glob("*.whl"), out.glob("*.tar.gz")
    return Built(wheel, sdist)


def required(name: str, found: dict[str, metadata.Distribution]) -> None:
    """Adds the distribution `name` and all it requires here, no extras, to `found`."""
    key = name.lower().replace("_", "-").replace(".", "-")
    if key in found:
        return
    found[key] = metadata.distribution(name)
    for requirement in map(Requirement, found[key].requires or ()):
        if requirement.marker is None or requirement.marker.evaluate({"extra": ""}):
            required(requirement.name, found)


@pytest.fixture(scope="session")
def base(built: Built, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The bin/ of a virtual environment with the wheel and what `pip install lowdino-edge` brings, no extra: links to
    what is installed here, so that nothing is fetched."""
    home = tmp_path_factory.mktemp("base") / "venv"
    venv.create(home, with_pip=False, symlinks=True)
    pip = [sys.executable, "-m", "pip", "--python", home / "bin" / "python", "install", "--quiet", "--no-compile"]
    subprocess.run([*pip, "--no-deps", "--no-index", built.wheel], check=True)
    (site,) = home.glob("lib/python*/site-packages")
    (own,) = metadata.distributions(name="lowdino-edge", path=[str(site)])
    found: dict[str, metadata.Distribution] = {}
    for requirement in map(Requirement, own.requires or ()):
        if requirement.marker is None:
            required(requirement.name, found)
    for distribution in found.values():
        for top in {file.parts[0] for file in distribution.files or ()} - {"..", "__pycache__"}:
            link = site / top
            if not link.exists():
                link.symlink_to(Path(str(distribution.locate_file(top))))
    return home / "bin"

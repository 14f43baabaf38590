"""What the wheel and the sdist hold, and what the wheel says of itself."""

from __future__ import annotations

import email
import hashlib
import re
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest
from built_wheel import ROOT, Built

from lowdino_edge import __version__

APP = ROOT / "mobile_demo" / "web" / "dist"
LIMIT = 12_000_000  # bytes of the wheel; nearly all of them are LiteRT's wasm


def checkout(folder: str) -> dict[str, bytes]:
    """The files of a folder that git knows or would add."""
    command = ["git", "ls-files", "-co", "--exclude-standard", folder]
    names = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout.splitlines()
    return {name: (ROOT / name).read_bytes() for name in names if (ROOT / name).is_file()}


def test_the_wheel_holds_package_recipes_and_app(built: Built) -> None:
    with zipfile.ZipFile(built.wheel) as z:
        inside = {i.filename: z.read(i) for i in z.infolist() if ".dist-info/" not in i.filename}
    wanted = checkout("lowdino_edge")
    wanted |= {f"lowdino_edge/{name}": content for name, content in checkout("recipes").items()}
    if APP.is_dir():  # `make web` made it
        wanted |= {
            f"lowdino_edge/webapp/{p.relative_to(APP).as_posix()}": p.read_bytes()
            for p in APP.rglob("*")
            if p.is_file()
        }
    assert sorted(inside) == sorted(wanted)
    assert inside == wanted
    assert built.wheel.stat().st_size < LIMIT
    assert {"lowdino_edge/py.typed", "lowdino_edge/recipes/quickstart.yaml"} <= set(inside)


def test_the_wheel_of_the_checkout_is_that_of_the_sdist(built: Built, tmp_path: Path) -> None:
    command = [sys.executable, "-m", "build", "--no-isolation", "--wheel", "-o", tmp_path, ROOT]
    subprocess.run(command, check=True, capture_output=True)
    hashes = [hashlib.sha256(path.read_bytes()).hexdigest() for path in (tmp_path / built.wheel.name, built.wheel)]
    assert hashes[0] == hashes[1]


def test_the_sdist_holds_what_the_wheel_is_made_of_and_nothing_else(built: Built) -> None:
    with tarfile.open(built.sdist) as tar:
        names = {name.partition("/")[2] for name in tar.getnames()}
    tops = {name.partition("/")[0] for name in names}
    known = {
        "lowdino_edge",
        "recipes",
        "README.md",
        "LICENSE",
        "CHANGELOG.md",
        "pyproject.toml",
        "PKG-INFO",
        ".gitignore",
    }
    assert tops - {"mobile_demo"} == known
    assert not [
        name for name in names if name.startswith("mobile_demo/") and not name.startswith("mobile_demo/web/dist/")
    ]


@pytest.fixture(scope="module")
def said(built: Built) -> email.message.Message:
    with zipfile.ZipFile(built.wheel) as z:
        (name,) = [n for n in z.namelist() if n.endswith(".dist-info/METADATA")]
        assert z.read(name.replace("METADATA", "licenses/LICENSE")) == (ROOT / "LICENSE").read_bytes()
        return email.message_from_bytes(z.read(name))


def test_metadata(said: email.message.Message) -> None:
    assert (said["Name"], said["Version"]) == ("lowdino-edge", __version__)
    assert (said["License-Expression"], said["Requires-Python"]) == ("Apache-2.0", "<3.14,>=3.11")
    supported = {c.rpartition(" ")[2] for c in said.get_all("Classifier", []) if " 3." in c}
    assert supported == {"3.11", "3.12", "3.13"}
    assert said.get_payload() == (ROOT / "README.md").read_text(encoding="utf-8")


def test_no_requirement_is_a_file_or_an_address(said: email.message.Message) -> None:
    assert not [r for r in said.get_all("Requires-Dist", []) if "@" in r or "://" in r]


def test_the_changelog_has_an_entry_for_the_version() -> None:
    headings = re.findall(r"^## (\S+)", (ROOT / "CHANGELOG.md").read_text(encoding="utf-8"), re.M)
    assert headings[0] == __version__

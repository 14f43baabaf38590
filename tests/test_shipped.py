"""Recipes by name: what is found, what wins, and what is said where nothing is."""

from __future__ import annotations

from pathlib import Path

import pytest

from lowdino_edge import shipped
from lowdino_edge.config import load_recipe
from lowdino_edge.errors import UserError

RECIPES = Path(__file__).resolve().parents[1] / "recipes"


@pytest.mark.parametrize(
    ("given", "found"),
    [
        ("quickstart", "quickstart.yaml"),
        ("quickstart.yaml", "quickstart.yaml"),
        ("recipes/quickstart.yaml", "quickstart.yaml"),
        ("pretrain/cifar10_dino", "pretrain/cifar10_dino.yaml"),
        ("paper/collapse_healthy", "paper/collapse_healthy.yaml"),
        ("paper", "paper"),
        ("recipes/paper", "paper"),
    ],
)
def test_a_name_finds_what_is_shipped(given: str, found: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert shipped.find(Path(given)) == RECIPES / found


def test_a_file_and_a_directory_win_and_a_run_does_not(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    own = Path("quickstart")
    own.write_text("name: mine\n")
    assert shipped.find(own) == own
    own.unlink()
    own.mkdir()
    assert shipped.find(own) == own
    (own / "recipe.yaml").write_text("name: quickstart\n")  # `lowdino run quickstart --out quickstart` left it
    assert shipped.find(own) == RECIPES / "quickstart.yaml"
    other = Path("mine")
    other.mkdir()
    (other / "recipe.yaml").write_text("name: mine\n")
    assert shipped.find(other) == other


@pytest.mark.parametrize(
    ("given", "hint"),
    [
        ("quikstart", "did you mean quickstart?"),
        ("cifar10_dino", "pretrain/cifar10_dino"),
        ("absent/zzz.yml", "lowdino list recipes"),
        ("base/lowdino", "lowdino"),
        ("../recipes/quickstart", "quickstart"),
    ],
)
def test_a_name_of_nothing(given: str, hint: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError) as e:
        shipped.find(Path(given))
    assert given in e.value.message and hint in e.value.hint


def test_every_listed_recipe_can_be_run_and_says_what_it_is() -> None:
    rows = shipped.rows()
    for row in rows:
        assert 20 < len(row["summary"]) < 130 and not row["summary"].startswith("base:"), row
        path = shipped.find(Path(row["id"]))
        assert path.is_dir() or load_recipe(path).name
    alone = {n for n in shipped.recipes() if n.partition("/")[0] not in shipped.DIRECTORIES}
    assert {row["id"] for row in rows} == alone | set(shipped.DIRECTORIES)

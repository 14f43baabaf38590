"""The recipe schema: round trip, precedence, and errors that name the key."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from lowdino_edge.config import Recipe, dump_recipe, load_recipe, parse_recipe
from lowdino_edge.errors import UserError


def test_resolved_recipe_reads_back_equal() -> None:
    recipe = load_recipe(
        None, ["train.epochs=3", "train.views.local.count=6", "distill.prototypes=64", "export.schemes=[w8a8]"]
    )
    assert parse_recipe(yaml.safe_load(dump_recipe(recipe))) == recipe


def test_precedence_flag_over_set_over_recipe_over_default(tmp_path: Path) -> None:
    file = tmp_path / "r.yaml"
    file.write_text("train: {epochs: 7, batch_size: 16}\nseed: 3\n")
    recipe = load_recipe(file, ["train.epochs=8", "seed=4"], flags={"seed": 5, "train.batch_size": None})
    assert recipe.train is not None
    assert (recipe.seed, recipe.train.epochs, recipe.train.batch_size, recipe.train.method) == (5, 8, 16, "dino")


@pytest.mark.parametrize(
    ("override", "message", "hint"),
    [
        ("train.epoch=1", "unknown key 'train.epoch'", "epochs"),
        ("train.views.global.cuont=2", "unknown key 'train.views.global.cuont'", "count"),
        ("trian.epochs=1", "unknown key 'trian'", "train"),
        ("eval.knn=[{kk: 3}]", "unknown key 'eval.knn.0.kk'", "temperature"),
        ("train.batch_size=0", "bad value for 'train.batch_size': 0", "greater"),
        ("train.views.local.scale=[0.9, 0.1]", "train.views.local", "scale"),
        ("no_equals_sign", "cannot read --set", "section.key=value"),
        ("a..b=1", "cannot read --set", "section.key=value"),
        ("train.epochs=[", "cannot read the value", "quote"),
    ],
)
def test_errors_name_the_key_and_the_way_out(override: str, message: str, hint: str) -> None:
    with pytest.raises(UserError) as e:
        load_recipe(None, [override])
    assert message in e.value.message
    assert hint in e.value.hint


@pytest.mark.parametrize("text", ["- a\n- b\n", "train: [unclosed", "\xff\xfe\x00"])
def test_what_is_no_recipe_is_a_user_error(tmp_path: Path, text: str) -> None:
    file = tmp_path / "r.yaml"
    file.write_bytes(text.encode("latin-1"))
    with pytest.raises(UserError):
        load_recipe(file)


def test_missing_recipe(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no recipe at"):
        load_recipe(tmp_path / "absent.yaml")


def test_scientific_notation_is_a_number() -> None:
    recipe = load_recipe(None, ["train.optim.lr=1e-3"])
    assert recipe.train is not None
    assert recipe.train.optim.lr == 1e-3


json = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=8),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.sampled_from(["train", "data", "views", "global", "epochs", "x"]), inner, max_size=4)
    ),
    max_leaves=12,
)


@given(st.dictionaries(st.sampled_from([*Recipe.model_fields, "other"]), json, max_size=4))
def test_any_mapping_is_a_recipe_or_a_user_error(tree: dict[str, object]) -> None:
    try:
        recipe = parse_recipe(tree)
    except UserError as e:
        assert e.message and e.hint and "\n" not in e.message
    else:
        assert parse_recipe(yaml.safe_load(dump_recipe(recipe))) == recipe


def test_ssh_options_may_be_numbers() -> None:
    recipe = load_recipe(None, ["benchmark.ssh_options=[-p, 2222]"])
    assert recipe.benchmark is not None and recipe.benchmark.ssh_options == ["-p", "2222"]

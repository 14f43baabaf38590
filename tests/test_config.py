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


def test_a_recipe_over_its_base(tmp_path: Path) -> None:
    (tmp_path / "base").mkdir()
    (tmp_path / "base" / "all.yaml").write_text(
        "seed: 3\ntrain: {epochs: 7, optim: {lr: 0.5}}\neval: {data: cifar10}\n"
    )
    file = tmp_path / "small.yaml"
    file.write_text("base: base/all.yaml\ntrain: {epochs: 2}\ndata: {source: stl10, train_limit: 50}\n")
    recipe = load_recipe(file, ["train.batch_size=8"])
    assert recipe.train is not None and recipe.name == "small"
    assert (recipe.seed, recipe.train.epochs, recipe.train.batch_size, recipe.train.optim.lr) == (3, 2, 8, 0.5)
    assert parse_recipe(yaml.safe_load(dump_recipe(recipe))) == recipe
    for moved in (load_recipe(file, ["data=photos"]), load_recipe(file, flags={"data": "photos"})):
        assert (moved.data.source, moved.data.train_limit, moved.eval.data) == ("photos", 50, None)
    assert (recipe.data.source, recipe.eval.data) == ("stl10", "cifar10")


@pytest.mark.parametrize(
    ("base", "said"),
    [("absent.yaml", "'absent.yaml', which is not there"), ("one.yaml", "has a base itself"),
     ("two.yaml", "has a base itself"), ("[1]", "which is not there"), ("list.yaml", "holds a list")],
)  # fmt: skip
def test_a_base_that_cannot_be(tmp_path: Path, base: str, said: str) -> None:
    """Missing, the recipe itself, one with a base of its own, no name, no mapping."""
    (tmp_path / "one.yaml").write_text(f"base: {base}\n")
    (tmp_path / "two.yaml").write_text("base: one.yaml\n")
    (tmp_path / "list.yaml").write_text("- 1\n")
    with pytest.raises(UserError) as e:
        load_recipe(tmp_path / "one.yaml")
    assert said in e.value.message


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


def test_what_is_not_said_of_a_section_stays_as_it_was() -> None:
    plain = load_recipe(None, base={"distill": {}, "train": {}})
    said = load_recipe(None, ["distill.views.hflip=0.1", "distill.optim.lr=2e-3", "train.views.global.count=3",
                              "train.views.local.size=24"])  # fmt: skip
    assert plain.distill and plain.train and said.distill and said.train
    assert said.distill.views == plain.distill.views.model_copy(update={"hflip": 0.1})
    assert said.distill.optim == plain.distill.optim.model_copy(update={"lr": 2e-3})
    assert said.train.views.global_ == plain.train.views.global_.model_copy(update={"count": 3})
    assert said.train.views.local == plain.train.views.local.model_copy(update={"size": 24})
    assert plain.distill.optim.name == "adamw" and plain.train.views.local.scale == (0.05, 0.4)


def test_losses_and_weights_as_they_are_written_on_a_command_line() -> None:
    recipe = load_recipe(None, flags={"distill.losses": "kl=1, cosine=0.5,mse", "distill.teacher": ["a", "b"],
                                      "distill.teacher_weights": "3:1"})  # fmt: skip
    assert recipe.distill is not None
    assert recipe.distill.losses == {"kl": 1.0, "cosine": 0.5, "mse": 1.0}
    assert recipe.distill.shares == [0.75, 0.25] and recipe.distill.patches == "none"


@pytest.mark.parametrize("losses", ["kl=1,patch=0.5", {"patch": 1.0}])
def test_the_patch_loss_brings_its_patches(losses: object) -> None:
    recipe = load_recipe(None, flags={"distill.losses": losses})
    assert recipe.distill is not None and recipe.distill.patches == "pca64"
    recipe = load_recipe(None, ["distill.patches=int8"], flags={"distill.losses": losses})
    assert recipe.distill is not None and recipe.distill.patches == "int8"


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        ({"losses": "kl=1,hinton=1"}, "hinton"),
        ({"losses": "kl=-1"}, "-1"),
        ({"losses": ""}, "''"),
        ({"teacher": ["a", "b"], "teacher_weights": "1:2:3"}, "3 teacher_weights for 2 teachers"),
        ({"teacher": ["a", "b"], "teacher_weights": "1:0"}, "'0'"),
        ({"teacher": ["a", "b"], "align": True}, "one teacher only"),
        ({"align": True, "losses": "kl=1"}, "weigh mse too"),
        ({"qat": "w8a8", "epochs": 2}, "qat_epochs 5 of 2 epochs"),
        ({"qat": "w4"}, "w4"),
    ],
)
def test_what_distillation_cannot_do(flags: dict[str, object], said: str) -> None:
    with pytest.raises(UserError) as e:
        load_recipe(None, flags={f"distill.{key}": value for key, value in flags.items()})
    assert said in f"{e.value.message} {e.value.hint}"

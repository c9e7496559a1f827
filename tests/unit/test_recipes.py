"""Recipes are checked whole, and those that come with Backtalk are good ones."""

from pathlib import Path

import pytest

from backtalk.errors import InvalidRecipe, UnknownRecipe
from backtalk.recipes import Recipe, list_recipes, load_recipe

ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize("name", ["default", "faster-surfaces", "int8", "phone", "quick", "surfaces"])
def test_what_comes_with_backtalk_can_be_used(name: str) -> None:
    assert load_recipe(name, None).description


def test_the_default_recipe_says_the_defaults() -> None:
    assert load_recipe("default", None).model_copy(update={"description": ""}) == Recipe()


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("epoch: 3", "epoch: there is no such key"),
        ("augmentation: {flips: both}", r"augmentation\.flips: there is no such key"),
        ("epochs: 0", "epochs: "),
        ("learning_rate: fast", "learning_rate: "),
        ("unfreeze: some", "unfreeze: "),
        ("unfreeze: 0", "unfreeze: "),
        ("unfreeze: -5", "unfreeze: "),
        ("unfreeze: true", "unfreeze: "),
        ("clip_norm: .inf", "clip_norm: "),
        ("budget: {size: .inf}", r"budget\.size: "),
        ("checkpoint_s: .nan", "checkpoint_s: "),
        ("method: distil\ndistil: {student: tiny, input_size: -3}", r"distil\.input_size: "),
        ("epochs: 3\nepochs: 30", "the key 'epochs' is there twice"),
        ("augmentation: {flip: both, flip: none}", "the key 'flip' is there twice"),
        ("- epochs", "no mapping"),
        ("epochs: [", "no YAML"),
        ("!!python/object/apply:os.system [true]", "no YAML"),
    ],
)
def test_a_bad_recipe_is_refused_by_the_name_of_its_key(tmp_path: Path, text: str, said: str) -> None:
    (tmp_path / "mine.yaml").write_text(text)
    with pytest.raises(InvalidRecipe, match=said):
        load_recipe("mine", tmp_path)


def test_an_own_recipe_comes_first_and_an_unknown_one_lists_what_there_is(tmp_path: Path) -> None:
    (tmp_path / "quick.yaml").write_text("epochs: 7")
    assert load_recipe("quick", tmp_path).epochs == 7
    assert list_recipes(tmp_path) == ["default", "faster-surfaces", "int8", "phone", "quick", "surfaces"]
    for name in ("nowhere", "../quick", ""):
        with pytest.raises(UnknownRecipe, match="default, faster-surfaces, int8, phone, quick, surfaces"):
            load_recipe(name, tmp_path)


def test_every_key_is_documented() -> None:
    text = (ROOT / "docs" / "recipes.md").read_text(encoding="utf-8")
    assert [name for name in Recipe.model_fields if f"`{name}`" not in text] == []

"""What a full run learns: which rows, with which weights, and what it will not learn from."""

import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
pytest.importorskip("backtalk.learn.flow")

from backtalk.errors import SnapshotUnusable
from backtalk.learn.lesson import Lesson, find_rows
from backtalk.recipes import Recipe
from backtalk.store import ImageStore

LABELS = ("cat", "dog")
TRAIN_Y = np.array([0, 0, 0, 0, 0, 0, 1, 1], np.int32)
#: Three of the cats are near-duplicates of each other, and so are the dogs: they have one share together.
SHARES = np.array([1 / 3, 1 / 3, 1 / 3, 1, 1, 1, 0.5, 0.5], np.float32)
VALIDATION_Y = np.array([1, 0, 1], np.int32)


def write_lesson(stay: int = 3, train_soft: Any = None, **recipe: Any) -> Lesson:
    """Eight images to train on, three for validation, `stay` that are to stay right."""
    chance = np.random.default_rng(1).uniform(size=stay).astype(np.float32)
    return Lesson(
        labels=LABELS,
        recipe=Recipe.parse("of a test", recipe),
        seed=7,
        threads=1,
        fence=1,
        snapshot_digest="5" * 64,
        start_backbone=Path("backbone"),
        store=Path("store"),
        images=ImageStore(Path("images")),
        work=Path("work"),
        sources=(),
        left_out=0,
        targets_digest="7" * 64,
        board=None,
        train_y=TRAIN_Y,
        train_seen=np.arange(len(TRAIN_Y)) % 2 == 0,
        train_weight=SHARES,
        validation_y=VALIDATION_Y,
        stay=np.stack([chance, 1 - chance], axis=1),
        train_soft=train_soft,
    )


def all_readable(lesson: Lesson, but: tuple[int, ...] = ()) -> np.ndarray:
    readable = np.ones(len(TRAIN_Y) + len(VALIDATION_Y) + len(lesson.stay), np.bool_)
    readable[list(but)] = False
    return readable


def find_weights(lesson: Lesson) -> tuple[np.ndarray, np.ndarray]:
    """Of labelled images, and of those that are to stay right, by the mean of the labelled ones."""
    rows, _ = find_rows(lesson, all_readable(lesson))
    labelled = rows.weights[: len(TRAIN_Y)]
    return labelled / labelled.mean(), rows.weights[len(TRAIN_Y) :] / labelled.mean()


# Shares sum to four cats and one dog, so a dog weighs twice or four times what its share says.
@pytest.mark.parametrize(("how", "dog"), [("none", 1.0), ("sqrt", 2.0), ("balanced", 4.0)])
def test_an_image_weighs_its_share_times_what_its_label_does(how: str, dog: float) -> None:
    expected = SHARES * np.where(TRAIN_Y == 1, dog, 1.0)
    labelled, _ = find_weights(write_lesson(class_weights=how))
    np.testing.assert_allclose(labelled, expected / expected.mean(), rtol=1e-6)


@pytest.mark.parametrize("stay_right", [0.25, 1.0])
@pytest.mark.parametrize("count", [1, 3, 8, 9, 400])
def test_an_image_that_is_to_stay_right_weighs_its_part_and_all_together_no_more_than_the_labelled_ones(
    count: int, stay_right: float
) -> None:
    labelled, stay = find_weights(write_lesson(count, stay_right=stay_right))
    np.testing.assert_allclose(stay, stay_right * min(1, 8 / count), rtol=1e-6)
    assert stay.sum() <= stay_right * labelled.sum() * (1 + 1e-6)


def test_images_that_cannot_be_read_do_not_count_in_that_limit() -> None:
    lesson = write_lesson(8, stay_right=1.0)
    rows, _ = find_rows(lesson, all_readable(lesson, but=(0, 1, 14, 15, 16, 17, 18)))
    labelled, stay = rows.weights[:6], rows.weights[6:]
    assert len(stay) == 3
    np.testing.assert_allclose(stay, labelled.mean(), rtol=1e-6)
    rows, _ = find_rows(lesson, all_readable(lesson, but=(0, 1)))
    np.testing.assert_allclose(rows.weights[6:].sum(), rows.weights[:6].sum(), rtol=1e-6)


@pytest.mark.parametrize("how", ["none", "sqrt", "balanced"])
@pytest.mark.parametrize("stay_right", [0.0, 0.25, 1.0])
def test_the_mean_weight_is_one(how: str, stay_right: float) -> None:
    lesson = write_lesson(20, class_weights=how, stay_right=stay_right)
    rows, _ = find_rows(lesson, all_readable(lesson, but=(1, 9, 12)))
    assert rows.weights.mean() == pytest.approx(1.0)
    assert rows.weights.dtype == np.float32


def test_rows_are_labelled_images_then_those_that_are_to_stay_right() -> None:
    lesson = write_lesson()
    rows, (held, truth) = find_rows(lesson, all_readable(lesson))
    assert rows.pixels.tolist() == [0, 1, 2, 3, 4, 5, 6, 7, 11, 12, 13]
    np.testing.assert_array_equal(rows.targets, [*np.eye(2, dtype=np.float32)[TRAIN_Y], *lesson.stay])
    assert rows.known.tolist() == [True, False] * 4 + [True] * 3
    assert (held.tolist(), truth.tolist()) == ([8, 9, 10], [1, 0, 1])


def test_what_cannot_be_read_is_left_out_wherever_it_is() -> None:
    lesson = write_lesson()
    rows, (held, truth) = find_rows(lesson, all_readable(lesson, but=(1, 4, 9, 11)))
    assert rows.pixels.tolist() == [0, 2, 3, 5, 6, 7, 12, 13]
    labels = np.eye(2, dtype=np.float32)[[0, 0, 0, 0, 1, 1]]
    np.testing.assert_array_equal(rows.targets, [*labels, *lesson.stay[1:]])
    assert rows.known.tolist() == [True, True, False, False, True, False, True, True]
    # Two shares of a third and two whole ones; beside them the dogs' is three eighths.
    expected = np.array([1 / 3, 1 / 3, 1, 1, 0.5, 0.5]) * np.array([1] * 4 + [np.sqrt(8 / 3)] * 2)
    np.testing.assert_allclose(rows.weights[:6] / rows.weights[2], expected, rtol=1e-6)
    assert (held.tolist(), truth.tolist()) == ([8, 10], [1, 1])


def test_a_distillation_learns_what_its_teachers_say_of_the_images_that_can_be_read() -> None:
    soft = np.random.default_rng(2).dirichlet(np.ones(2), len(TRAIN_Y)).astype(np.float32)
    lesson = write_lesson(train_soft=soft)
    rows, _ = find_rows(lesson, all_readable(lesson, but=(0,)))
    np.testing.assert_array_equal(rows.targets, [*soft[1:], *lesson.stay])


def test_a_stay_right_of_nothing_leaves_those_images_out() -> None:
    lesson = write_lesson(stay_right=0.0)
    rows, _ = find_rows(lesson, all_readable(lesson))
    assert rows.pixels.tolist() == list(range(8))
    assert len(rows.targets) == len(rows.weights) == len(rows.known) == 8


@pytest.mark.parametrize(("but", "left"), [((7,), 1), ((6, 7), 0)])
def test_a_label_with_fewer_than_two_images_that_can_be_read_is_named(
    but: tuple[int, ...], left: int
) -> None:
    lesson = write_lesson()
    with pytest.raises(SnapshotUnusable, match=f"'dog' has {left}") as caught:
        find_rows(lesson, all_readable(lesson, but=but))
    assert "cat" not in caught.value.message
    find_rows(lesson, all_readable(lesson, but=(2, 3, 4, 5)))  # two of each suffice

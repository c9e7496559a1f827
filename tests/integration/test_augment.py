"""What may happen to an image before it is learned from: as asked, within bounds, and drawn by name."""

import os
from typing import Any

import numpy as np
import pytest

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
tf = pytest.importorskip("backtalk.learn.flow").tf

from backtalk.learn.augment import make_augment  # noqa: E402  # after the switches that `flow` sets
from backtalk.recipes import Augmentation  # noqa: E402

SIDE, SEED, DRAWS = 32, 7, 100
OFF = {"flip": "none", "quarter_turns": False, "shift": 0, "zoom": 0, "brightness": 0, "contrast": 0}
ONE_BY_ONE = (
    {"flip": "horizontal"}, {"flip": "vertical"}, {"flip": "both"}, {"quarter_turns": True},
    {"shift": 0.2}, {"zoom": 0.2}, {"brightness": 0.2}, {"contrast": 0.2},
)  # fmt: skip


def draw_image() -> np.ndarray:
    return np.random.default_rng(1).integers(0, 256, (SIDE, SIDE, 3), np.uint8)


def change(image: np.ndarray, values: dict[str, Any], count: int = DRAWS) -> np.ndarray:
    """The image as so many rows of the map, each in an epoch of its own: (count, S, S, 3)."""
    augment = tf.function(make_augment(Augmentation(**OFF | values), SEED))
    given = tf.constant(image)
    rows = [tf.constant(number, tf.int64) for number in range(count)]
    found = np.stack([augment(given, row // 10, row).numpy() for row in rows])
    assert (found.dtype, found.shape) == (np.uint8, (count, *image.shape))
    return found


def ramp(axis: int) -> np.ndarray:
    """Brighter by 8 with each pixel along an axis."""
    steps = np.arange(SIDE, dtype=np.uint8) * 8
    return np.broadcast_to(np.expand_dims(steps, [a for a in range(3) if a != axis]), (SIDE, SIDE, 3)).copy()


# --- flips and turns ---------------------------------------------------------------------------------
WAYS = {
    "as it was": lambda i: i,
    "left for right": lambda i: i[:, ::-1],
    "top for bottom": lambda i: i[::-1],
    "by 90": np.rot90,
    "by 180": lambda i: np.rot90(i, 2),
    "by 270": lambda i: np.rot90(i, 3),
    "along one diagonal": lambda i: np.swapaxes(i, 0, 1),
    "along the other": lambda i: np.rot90(np.swapaxes(i, 0, 1), 2),
}


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ({"flip": "horizontal"}, {"as it was", "left for right"}),
        ({"flip": "vertical"}, {"as it was", "top for bottom"}),
        ({"flip": "both"}, {"as it was", "left for right", "top for bottom", "by 180"}),
        ({"quarter_turns": True}, {"as it was", "by 90", "by 180", "by 270"}),
        ({"flip": "horizontal", "quarter_turns": True}, set(WAYS)),
    ],
)
def test_flips_and_turns_lay_it_down_in_the_ways_that_were_asked_for_and_move_whole_pixels(
    values: dict[str, Any], expected: set[str]
) -> None:
    image = draw_image()
    names = {way(image).tobytes(): name for name, way in WAYS.items()}
    found = [names[one.tobytes()] for one in change(image, values)]  # it is none but these, bit by bit
    assert set(found) == expected
    for name in expected:
        assert found.count(name) / len(found) == pytest.approx(1 / len(expected), abs=0.15)


# --- off and on --------------------------------------------------------------------------------------
def test_with_all_of_it_off_it_keeps_every_bit() -> None:
    image = draw_image()
    for one in change(image, {}, 20):
        np.testing.assert_array_equal(one, image)


@pytest.mark.parametrize("values", ONE_BY_ONE)
def test_each_kind_changes_it_without_the_others(values: dict[str, Any]) -> None:
    found = change(draw_image(), values, 20)
    changed = (found != draw_image()).any(axis=(1, 2, 3)).mean()
    assert changed > 0.3
    assert len(np.unique(found, axis=0)) > (1 if "flip" in values else 2)


@pytest.mark.parametrize("values", [{"brightness": 0.2}, {"contrast": 0.4}])
def test_what_changes_colours_moves_nothing(values: dict[str, Any]) -> None:
    image = np.zeros((SIDE, SIDE, 3), np.uint8) + np.uint8(100)
    image[3:9, 5:21] = 150
    for one in change(image, values, 20):
        assert len(np.unique(one[3:9, 5:21])) == 1
        one[3:9, 5:21] = one[0, 0]
        assert len(np.unique(one)) == 1


@pytest.mark.parametrize("values", [{"shift": 0.5}, {"zoom": 0.5}])
def test_what_moves_it_changes_no_colour_and_mirrors_what_comes_in(values: dict[str, Any]) -> None:
    image = np.zeros((SIDE, SIDE, 3), np.uint8) + np.array([200, 90, 10], np.uint8)
    np.testing.assert_array_equal(change(image, values, 20), np.broadcast_to(image, (20, *image.shape)))


# --- within bounds -----------------------------------------------------------------------------------
def test_brightness_adds_at_most_its_share_of_the_full_range_each_way() -> None:
    grey = np.full((SIDE, SIDE, 3), 128, np.uint8)
    moved = change(grey, {"brightness": 0.1})[:, 0, 0, 0].astype(int) - 128
    assert np.abs(moved).max() <= 26  # a tenth of 255, rounded
    assert moved.min() < -20
    assert moved.max() > 20


def test_brightness_stops_at_black_and_white() -> None:
    for value, expected in ((2, 0), (253, 255)):
        found = change(np.full((SIDE, SIDE, 3), value, np.uint8), {"brightness": 0.1})
        assert (found == expected).any()
        assert (np.abs(found.astype(int) - value) <= 26).all()


def test_contrast_stretches_about_the_mean_by_at_most_its_share() -> None:
    halves = np.full((SIDE, SIDE, 3), 88, np.uint8)
    halves[:, SIDE // 2 :] = 168
    found = change(halves, {"contrast": 0.5}).astype(int)
    np.testing.assert_allclose((found[:, 0, 0, 0] + found[:, 0, -1, 0]) / 2, 128, atol=1)
    factors = (found[:, 0, -1, 0] - found[:, 0, 0, 0]) / 80
    assert factors.min() >= 1 / 1.5 - 0.02
    assert factors.max() <= 1.5 + 0.02
    assert factors.min() < 0.75
    assert factors.max() > 1.35


@pytest.mark.parametrize("axis", [0, 1])
def test_a_shift_goes_both_ways_by_at_most_its_share_of_the_side(axis: int) -> None:
    image, middle = ramp(axis), SIDE // 2
    by = (change(image, {"shift": 0.25})[:, middle, middle, 0].astype(float) - image[middle, middle, 0]) / 8
    assert np.abs(by).max() <= 8.1  # a quarter of 32 pixels
    assert by.min() < -6
    assert by.max() > 6


def test_shifts_down_and_across_are_drawn_apart() -> None:
    middle = SIDE // 2
    down, across = (
        change(ramp(axis), {"shift": 0.25})[:, middle, middle, 0].astype(float) for axis in (0, 1)
    )
    assert abs(np.corrcoef(down, across)[0, 1]) < 0.4


def test_what_a_shift_brings_in_is_the_image_mirrored() -> None:
    image = ramp(1)
    for one in change(image, {"shift": 0.25}, 30).astype(int):
        steps = np.diff(one[0, :, 0])
        assert np.abs(steps).max() <= 9  # no edge: it goes on the other way
        assert np.abs(one).max() <= 248


def test_a_zoom_is_about_the_centre_and_at_most_its_share_in_or_out() -> None:
    middle = slice(SIDE // 2 - 4, SIDE // 2 + 4)
    found = change(ramp(1), {"zoom": 0.5})[:, SIDE // 2, middle, 0].astype(float)
    np.testing.assert_allclose(found.mean(axis=1), 124, atol=1.5)  # of 0 and 248
    scales = (found[:, -1] - found[:, 0]) / (7 * 8)
    assert scales.min() >= 1 / 1.5 - 0.02
    assert scales.max() <= 1.5 + 0.02
    assert scales.min() < 0.75
    assert scales.max() > 1.35
    down = change(ramp(0), {"zoom": 0.5})[:, middle, SIDE // 2, 0].astype(float)
    np.testing.assert_array_equal(down, found)  # the same along both axes


# --- drawn by seed, epoch and row --------------------------------------------------------------------
def test_what_is_drawn_depends_on_seed_epoch_and_row_and_on_nothing_else() -> None:
    everything = Augmentation(flip="both", quarter_turns=True, shift=0.2, zoom=0.2, brightness=0.2)
    keys = [(seed, epoch, row) for seed in (7, 8) for epoch in (0, 1) for row in (0, 1, 5)]

    def draw(seed: int, epoch: int, row: int) -> bytes:
        augment = make_augment(everything, seed)
        return bytes(
            augment(
                tf.constant(draw_image()), tf.constant(epoch, tf.int64), tf.constant(row, tf.int64)
            ).numpy()
        )

    found = {key: draw(*key) for key in keys}
    assert len(set(found.values())) == len(keys)
    tf.random.set_seed(5)
    np.random.default_rng().random()
    assert {key: draw(*key) for key in reversed(keys)} == found

"""What the training is shown: which images, in which order, mixed how, and the same again after a kill."""

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
tf = pytest.importorskip("backtalk.learn.flow").tf

from backtalk.learn.augment import make_augment  # noqa: E402  # after the switches that `flow` sets
from backtalk.learn.feed import Feed, Rows, count_steps, order_epoch  # noqa: E402
from backtalk.learn.pixelmap import PixelMap, Pixels  # noqa: E402
from backtalk.recipes import Recipe  # noqa: E402

SIDE, MAPPED, COUNT, KNOWN, SEED = 8, 30, 23, 13, 7
STILL = {"flip": "none", "shift": 0, "zoom": 0, "brightness": 0, "contrast": 0}
LIVELY = {"flip": "both", "quarter_turns": True, "shift": 0.2, "zoom": 0.2}
REPLAYS = (1e-9, 0.25, 0.5, 1.0)

Batch = tuple[np.ndarray, np.ndarray, np.ndarray]


@pytest.fixture
def pixels(tmp_path: Path) -> Pixels:
    """A mapped file, as in a run."""
    path = tmp_path / "pixels.u8"
    np.random.default_rng(1).integers(0, 256, MAPPED * SIDE * SIDE * 3, np.uint8).tofile(path)
    return PixelMap(path, SIDE, np.ones(MAPPED, np.bool_)).open()


def make_rows(count: int = COUNT, known: int = KNOWN) -> Rows:
    """Each row has a class of its own, so that a target tells whose it is. The weights are 1 and 0.25."""
    draw = np.random.default_rng(2)
    return Rows(
        pixels=draw.permutation(max(MAPPED, count))[:count].astype(np.int64),
        targets=np.eye(count, dtype=np.float32),
        weights=np.where(np.arange(count) % 3 == 0, 1, 0.25).astype(np.float32),
        known=draw.permutation(count) < known,
    )


def write_recipe(**values: Any) -> Recipe:
    return Recipe.parse("of a test", {"batch_size": 4, "augmentation": STILL} | values)


def start(pixels: Pixels, threads: int = 1, seed: int = SEED, **values: Any) -> Feed:
    return Feed(pixels, make_rows(), write_recipe(**values), seed, threads)


def list_batches(feed: Feed, epoch: int, first_step: int = 0) -> list[Batch]:
    return [tuple(part.numpy() for part in batch) for batch in feed.epoch(epoch, first_step)]  # type: ignore[misc]


# --- which rows --------------------------------------------------------------------------------------
@pytest.mark.parametrize(("replay", "shown"), [(1e-9, 1), (0.25, 3), (0.5, 6), (1.0, 13)])
def test_an_epoch_shows_each_new_image_once_and_a_share_of_the_known_ones(replay: float, shown: int) -> None:
    rows = make_rows()
    for epoch in range(5):
        order = order_epoch(rows, SEED, epoch, replay)
        assert len(set(order.tolist())) == len(order)
        assert set(order[~rows.known[order]].tolist()) == set(np.flatnonzero(~rows.known).tolist())
        assert rows.known[order].sum() == shown


@pytest.mark.parametrize("replay", REPLAYS)
def test_each_epoch_and_each_seed_has_an_order_of_its_own_which_is_the_same_again(replay: float) -> None:
    rows = make_rows()
    orders = {
        (seed, epoch): tuple(order_epoch(rows, seed, epoch, replay).tolist())
        for seed in (7, 8)
        for epoch in (0, 1, 2)
    }
    assert len(set(orders.values())) == len(orders)
    again = {key: tuple(order_epoch(make_rows(), *key, replay).tolist()) for key in orders}
    assert again == orders


def test_which_of_the_known_images_are_shown_is_drawn_anew_each_epoch() -> None:
    rows = make_rows()
    shown = [order_epoch(rows, SEED, epoch, 0.25) for epoch in range(20)]
    assert len({frozenset(order[rows.known[order]].tolist()) for order in shown}) > 10
    assert set(np.concatenate(shown).tolist()) == set(range(COUNT))  # each has its turn


@pytest.mark.parametrize("replay", REPLAYS)
@pytest.mark.parametrize(("count", "known"), [(23, 13), (23, 0), (23, 23), (1, 1), (2, 1)])
def test_steps_are_counted_as_the_batches_come(replay: float, count: int, known: int) -> None:
    rows = make_rows(count, known)
    assert rows.known.sum() == known
    for batch_size in (1, 4, 8, 23, 100):
        recipe = write_recipe(replay=replay, batch_size=batch_size)
        steps = np.ceil(len(order_epoch(rows, SEED, 3, replay)) / batch_size)
        assert count_steps(rows, recipe) == steps


# --- in which batches --------------------------------------------------------------------------------
@pytest.mark.parametrize("threads", [1, 2])
def test_batches_hold_every_row_of_the_order_and_only_the_last_is_smaller(
    pixels: Pixels, threads: int
) -> None:
    rows, order = make_rows(), order_epoch(make_rows(), SEED, 2, 0.5)
    batches = list_batches(start(pixels, threads, replay=0.5), 2)
    assert [len(batch[0]) for batch in batches] == [4, 4, 4, 4]
    batches = list_batches(start(pixels, threads, replay=0.5, batch_size=6), 2)
    assert [len(batch[0]) for batch in batches] == [6, 6, 4]
    images, targets, weights = (np.concatenate(parts) for parts in zip(*batches, strict=True))
    assert images.dtype == np.uint8
    np.testing.assert_array_equal(images, pixels[rows.pixels[order]])
    np.testing.assert_array_equal(targets, rows.targets[order])
    np.testing.assert_array_equal(weights, rows.weights[order])


def test_an_epoch_taken_up_at_any_step_goes_on_in_the_same_bits_on_any_number_of_threads(
    pixels: Pixels,
) -> None:
    values = {"augmentation": LIVELY, "mixup": 0.4, "replay": 0.5, "batch_size": 6}
    whole = list_batches(start(pixels, **values), 3)
    assert len(whole) == 3
    for threads in (1, 2):
        for first_step in range(4):
            found = list_batches(start(pixels, threads, **values), 3, first_step)
            assert len(found) == 3 - first_step
            for one, other in zip(found, whole[first_step:], strict=True):
                for mine, theirs in zip(one, other, strict=True):
                    np.testing.assert_array_equal(mine, theirs)


def test_each_image_is_changed_as_seed_epoch_and_its_row_of_the_map_say(pixels: Pixels) -> None:
    turns = STILL | {"flip": "both", "quarter_turns": True}
    rows, augment = make_rows(), make_augment(write_recipe(augmentation=turns).augmentation, SEED)
    feed = start(pixels, augmentation=turns)
    shown = []
    for epoch in (0, 1):
        images, targets, _ = (np.concatenate(p) for p in zip(*list_batches(feed, epoch), strict=True))
        of = rows.pixels[targets.argmax(axis=1)]
        for image, row in zip(images, of, strict=True):
            expected = augment(tf.constant(pixels[row]), tf.constant(epoch, tf.int64), tf.constant(row))
            np.testing.assert_array_equal(image, expected)
        shown.append(images[np.argsort(of)])
    changed = (shown[0] != shown[1]).any(axis=(1, 2, 3))
    assert changed.mean() > 0.5  # seven of the eight ways to lay it down are others


# --- mixup -------------------------------------------------------------------------------------------
def list_mixtures(pixels: Pixels, alpha: float, epochs: int = 1, seed: int = SEED) -> Iterator[np.ndarray]:
    """Shares of the images of each batch, once all else about the mixtures is as it should be."""
    rows, feed = make_rows(), start(pixels, seed=seed, mixup=alpha)
    for epoch in range(epochs):
        order = order_epoch(rows, seed, epoch, 1.0)
        for step, (images, targets, weights) in enumerate(list_batches(feed, epoch)):
            own = order[step * 4 : step * 4 + 4]
            other = np.roll(own, 1)  # the image before it
            np.testing.assert_allclose(targets.sum(axis=1), 1, rtol=1e-6)
            said = targets * weights[:, None]  # each image's say: its share of the mixture times its weight
            place = np.arange(len(own))
            shares = said[place, own] / rows.weights[own]
            shares = np.ones(1) if len(own) == 1 else shares
            expected = np.zeros_like(targets)
            expected[place, own] += shares * rows.weights[own]
            expected[place, other] += (1 - shares) * rows.weights[other]
            np.testing.assert_allclose(said, expected, rtol=1e-4, atol=1e-6)
            np.testing.assert_allclose(weights, expected.sum(axis=1), rtol=1e-5)
            wide = shares[:, None, None, None]
            mixed = wide * pixels[rows.pixels[own]] + (1 - wide) * pixels[rows.pixels[other]]
            assert np.abs(images - mixed).max() < 0.51
            yield shares


def test_a_mixture_says_of_each_image_its_share_times_its_weight(pixels: Pixels) -> None:
    shares = np.concatenate(list(list_mixtures(pixels, 1.0)))
    assert len(shares) == COUNT
    assert (shares > 0.5).all()  # what comes first in it is more of it
    assert (shares < 1.0).sum() >= COUNT - 1


def test_shares_follow_the_beta_distribution_and_each_is_drawn_for_itself(pixels: Pixels) -> None:
    few, many = (np.concatenate(list(list_mixtures(pixels, alpha, epochs=6))) for alpha in (0.2, 1.0))
    # Of the larger of two parts of one.
    np.testing.assert_allclose([few.mean(), many.mean()], [0.9, 0.75], atol=0.03)
    others = np.concatenate(list(list_mixtures(pixels, 1.0, seed=8)))
    every = np.concatenate([many, others])  # over images, steps, epochs and seeds
    assert len(np.unique(every.round(4))) > 0.9 * len(every)


def test_without_mixup_nothing_is_mixed(pixels: Pixels) -> None:
    for _, targets, _ in list_batches(start(pixels, mixup=0.0), 0):
        assert set(np.unique(targets)) == {0.0, 1.0}


# --- tf.data without Python inside -------------------------------------------------------------------
def list_operations(batches: Any) -> set[str]:
    graph = tf.compat.v1.GraphDef.FromString(batches._dataset._as_serialized_graph().numpy())
    nodes = [*graph.node, *(node for function in graph.library.function for node in function.node_def)]
    return {node.op for node in nodes}


def find_python(operations: set[str]) -> set[str]:
    return {op for op in operations if "PyFunc" in op or "Generator" in op}


def test_no_python_runs_while_images_are_fed(pixels: Pixels) -> None:
    operations = list_operations(start(pixels, 2, augmentation=LIVELY, mixup=0.4).epoch(0))
    assert {"ParallelMapDatasetV2", "PrefetchDataset", "GatherV2"} <= operations  # it is the whole pipeline
    assert find_python(operations) == set()


def test_the_search_for_python_finds_it() -> None:
    numbers = tf.data.Dataset.range(3)
    called = numbers.map(lambda n: tf.py_function(lambda m: m, [n], tf.int64))
    kind = tf.TensorSpec([], tf.int32)
    generated = tf.data.Dataset.from_generator(lambda: iter([1]), output_signature=kind)
    for dataset in (called, generated):
        assert find_python(list_operations(iter(dataset)))

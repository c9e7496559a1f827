"""Feeds images to the training: tf.data without Python inside.

The order of an epoch is a function of seed and epoch over a frozen list, so where a training stands is a
whole number, and a resumed one sees the very images that it would have seen.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from backtalk.learn.augment import make_augment
from backtalk.learn.flow import tf
from backtalk.learn.pixelmap import Pixels
from backtalk.recipes import Recipe

PREFETCH = 2  # batches that wait ready
_STAY = 0x57A7  # tells the draws for replay from those for the order


@dataclass(frozen=True, eq=False)
class Rows:
    """What is learned: N rows of the pixel map with what each should be answered with."""

    pixels: NDArray[np.int64]  # (N,): rows of the map
    targets: NDArray[np.float32]  # (N, C): rows sum to one
    weights: NDArray[np.float32]  # (N,): their mean is one
    known: NDArray[np.bool_]  # (N,): the champion's line has learned it; replayed by the recipe's share

    def __len__(self) -> int:
        return len(self.pixels)


def order_epoch(rows: Rows, seed: int, epoch: int, replay: float) -> NDArray[np.int64]:
    """Which rows this epoch shows, in which order: every new one, and a share of the known ones."""
    known, new = np.flatnonzero(rows.known), np.flatnonzero(~rows.known)
    if replay < 1.0 and len(known):
        count = max(1, round(replay * len(known)))
        known = np.random.default_rng([seed, epoch, _STAY]).choice(known, count, replace=False)
    shown = np.concatenate([new, np.sort(known)]).astype(np.int64)
    return np.random.default_rng([seed, epoch]).permutation(shown)


def count_steps(rows: Rows, recipe: Recipe) -> int:
    """Steps of one epoch."""
    known = int(rows.known.sum())
    replayed = max(1, round(recipe.replay * known)) if known else 0
    return -(-(len(rows) - known + replayed) // recipe.batch_size)


class Feed:
    """Batches of (images (B, S, S, 3) uint8, targets (B, C), weights (B,)), in an order that never varies."""

    def __init__(self, pixels: Pixels, rows: Rows, recipe: Recipe, seed: int, threads: int) -> None:
        self._pixels = share_memory(pixels)
        self._rows = rows
        self._recipe = recipe
        self._seed = seed
        self._threads = threads
        self._augment = make_augment(recipe.augmentation, seed)

    def epoch(self, epoch: int, first_step: int = 0) -> Iterator[tuple[Any, Any, Any]]:
        """The batches of an epoch, from `first_step` on."""
        order = order_epoch(self._rows, self._seed, epoch, self._recipe.replay)
        order = order[first_step * self._recipe.batch_size :]
        number = tf.constant(epoch, tf.int64)
        targets, weights = self._rows.targets[order], self._rows.weights[order]
        rows = tf.data.Dataset.from_tensor_slices((self._rows.pixels[order], targets, weights))

        def read(row: Any, target: Any, weight: Any) -> tuple[Any, Any, Any]:
            return self._augment(tf.gather(self._pixels, row), number, row), target, weight

        batches = rows.map(read, num_parallel_calls=self._threads, deterministic=True)
        batches = batches.batch(self._recipe.batch_size)
        if self._recipe.mixup:
            steps = tf.data.Dataset.range(first_step, np.iinfo(np.int64).max)
            batches = tf.data.Dataset.zip((batches, steps)).map(self._mix(number))
        with _unoptimised():
            return iter(batches.prefetch(PREFETCH).with_options(_options(self._threads)))

    def _mix(self, epoch: Any) -> Any:
        """Each image with the one before it in its batch (mixup, Zhang et al., 2018)."""

        def mix(batch: tuple[Any, Any, Any], step: Any) -> tuple[Any, Any, Any]:
            images, targets, weights = batch
            key = tf.stack([tf.constant(self._seed ^ _STAY, tf.int64), epoch * 2**32 + step])
            pair = tf.random.stateless_gamma([2, tf.shape(images)[0]], key, alpha=self._recipe.mixup)
            share = pair[0] / tf.maximum(pair[0] + pair[1], 1e-12)
            share = tf.maximum(share, 1 - share)

            def blend(values: Any, rank: int) -> Any:
                wide = tf.reshape(share, [-1] + [1] * (rank - 1))
                values = tf.cast(values, tf.float32)
                return wide * values + (1 - wide) * tf.roll(values, 1, 0)

            # Each image brings its own weight to the mixture: what weighs little has little of the say.
            said, weight = blend(targets * weights[:, None], 2), blend(weights, 1)
            return tf.cast(tf.round(blend(images, 4)), tf.uint8), said / weight[:, None], weight

        return mix


def share_memory(pixels: Pixels) -> Any:
    """The mapped file as a tensor, without a copy: pages are read when they are used, and can be dropped."""
    return tf.experimental.dlpack.from_dlpack(np.asarray(pixels).__dlpack__())


def plain_batches(pixels: Any, rows: NDArray[np.int64], batch_size: int) -> Iterator[Any]:
    """Images (B, S, S, 3) uint8 as they are, in order; `pixels` from `share_memory`."""
    for start in range(0, len(rows), batch_size):
        yield tf.gather(pixels, tf.constant(rows[start : start + batch_size]))


def _options(threads: int) -> Any:
    options = tf.data.Options()
    options.deterministic = True
    # The optimiser would copy the mapped pixels into memory, all of them.
    options.experimental_optimization.apply_default_optimizations = False
    options.autotune.enabled = False
    options.threading.private_threadpool_size = threads
    return options


@contextmanager
def _unoptimised() -> Iterator[None]:
    """Op determinism has tf.data rewrite every pipeline, which copies the mapped pixels into memory.

    Ours needs no rewriting: its operations have no state, and its order is given. So the switch is off while
    the iterator is made.
    """
    from tensorflow.python.framework import config

    was = config.is_op_determinism_enabled()
    config.disable_op_determinism()
    try:
        yield
    finally:
        if was:
            config.enable_op_determinism()

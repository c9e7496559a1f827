"""Changes to images that leave their label as it is, as TensorFlow operations without any state.

What is drawn depends on the seed, the epoch and the image alone: not on the order of images, on threads, or
on where a training was interrupted.
"""

import math
from collections.abc import Callable
from typing import Any

from backtalk.learn.flow import tf
from backtalk.recipes import Augmentation

_DRAWS = 8


def make_augment(recipe: Augmentation, seed: int) -> Callable[[Any, Any, Any], Any]:
    """A function of (image (S, S, 3) uint8, epoch int64, row int64) → (S, S, 3) uint8."""

    def augment(image: Any, epoch: Any, row: Any) -> Any:
        key = tf.stack([tf.constant(seed, tf.int64), epoch * 2**32 + row])
        draws = tf.random.stateless_uniform([_DRAWS], key)
        return _colour(_move(_turn(image, draws, recipe), draws, recipe), draws, recipe)

    return augment


def _turn(image: Any, draws: Any, recipe: Augmentation) -> Any:
    shape = image.shape
    if recipe.flip in ("horizontal", "both"):
        image = tf.cond(draws[0] < 0.5, lambda: image[:, ::-1], lambda: image)
    if recipe.flip in ("vertical", "both"):
        upright = image
        image = tf.cond(draws[1] < 0.5, lambda: upright[::-1], lambda: upright)
    if recipe.quarter_turns:
        image = tf.image.rot90(image, tf.cast(tf.floor(draws[2] * 4), tf.int32))
    image.set_shape(shape)
    return image


def _move(image: Any, draws: Any, recipe: Augmentation) -> Any:
    """Zoom about the centre, then shift; what comes in from outside is the image mirrored."""
    if not recipe.zoom and not recipe.shift:
        return image
    size = image.shape[0]
    scale = tf.exp((draws[3] * 2 - 1) * math.log1p(recipe.zoom))
    offsets = [(1 - scale) * (size - 1) / 2 + (draws[i] * 2 - 1) * recipe.shift * size for i in (4, 5)]
    zero = tf.zeros([])
    matrix = tf.stack([scale, zero, offsets[0], zero, scale, offsets[1], zero, zero])
    moved = tf.raw_ops.ImageProjectiveTransformV3(
        images=tf.cast(image, tf.float32)[None],
        transforms=matrix[None],
        output_shape=[size, size],
        fill_value=0.0,
        interpolation="BILINEAR",
        fill_mode="REFLECT",
    )
    return _to_bytes(moved[0])


def _colour(image: Any, draws: Any, recipe: Augmentation) -> Any:
    if not recipe.brightness and not recipe.contrast:
        return image
    values = tf.cast(image, tf.float32)
    factor = tf.exp((draws[6] * 2 - 1) * math.log1p(recipe.contrast))
    middle = tf.reduce_mean(values)
    return _to_bytes((values - middle) * factor + middle + (draws[7] * 2 - 1) * recipe.brightness * 255)


def _to_bytes(values: Any) -> Any:
    return tf.cast(tf.clip_by_value(tf.round(values), 0.0, 255.0), tf.uint8)

"""`images.decode` and `images.to_input` once more, in TensorFlow, for the SavedModel's `serve_bytes`.

Who asks TensorFlow Serving should get the answer that Backtalk gives, so this follows Pillow step by step: what
it averages first, where it cuts, and that it rounds to whole values between the two passes of its filter. Not
followed: WebP, which TensorFlow cannot read; orientation, which it ignores; and samples of 16 bits in grey.
"""

from typing import Any

from backtalk.learn.flow import tf

_REDUCING_GAP = 3.0  # as in `images.to_input`
_BICUBIC_MARGIN = 1.5  # the filter's reach beyond the pixel that it is for, in output pixels


def decode_input(data: Any, size: int) -> Any:
    """One JPEG or PNG, as a string tensor → (size, size, 3) uint8."""
    pixels = tf.cond(tf.io.is_jpeg(data), lambda: _decode_jpeg(data), lambda: _decode_png(data))
    pixels, box = _reduce(pixels, size)
    for axis in (1, 0):  # across, then down
        pixels = _scale(pixels, axis, box[axis], size)
    pixels.set_shape([size, size, 3])
    return tf.cast(pixels, tf.uint8)


def can_decode(data: bytes) -> bool:
    """Whether this is a file for `decode_input`: JPEG or PNG."""
    return data.startswith((b"\xff\xd8\xff", b"\x89PNG\r\n\x1a\n"))


def _decode_jpeg(data: Any) -> Any:
    # Accurate as Pillow's; TensorFlow's own default is the fast transform.
    return tf.cast(tf.io.decode_jpeg(data, channels=3, dct_method="INTEGER_ACCURATE"), tf.float32)


def _decode_png(data: Any) -> Any:
    layers = tf.cast(tf.io.decode_png(data, channels=4), tf.float32)
    opacity = layers[:, :, 3:] / 255
    return _round(layers[:, :, :3] * opacity + 255 * (1 - opacity))


def _round(values: Any) -> Any:
    return tf.clip_by_value(tf.floor(values + 0.5), 0.0, 255.0)


def _reduce(pixels: Any, size: int) -> tuple[Any, list[Any]]:
    """Average whole pixels where the largest centred square is very large.

    Returns the image, and where in it the square begins and ends: `[(top, bottom), (left, right)]`, fractions
    of pixels.
    """
    shape = tf.shape(pixels)
    side = tf.minimum(shape[0], shape[1])
    factor = tf.maximum(1, tf.cast(tf.cast(side, tf.float32) / (size * _REDUCING_GAP), tf.int32))
    margin = _BICUBIC_MARGIN * tf.cast(side, tf.float32) / size
    box = []
    for axis in (0, 1):
        start = (shape[axis] - side) // 2
        first = tf.maximum(0, tf.cast(tf.cast(start, tf.float32) - margin, tf.int32))
        last = tf.minimum(shape[axis], tf.cast(tf.math.ceil(tf.cast(start + side, tf.float32) + margin), tf.int32))
        first, last = tf.cond(factor > 1, lambda f=first, t=last: (f, t), lambda a=axis: (0, shape[a]))
        pixels = _average(tf.gather(pixels, tf.range(first, last), axis=axis), axis, factor)
        ends = tf.cast(tf.stack([start - first, start - first + side]), tf.float32)
        box.append(ends / tf.cast(factor, tf.float32))
    return tf.cond(factor > 1, lambda: _round(pixels), lambda: pixels), box


def _average(pixels: Any, axis: int, factor: Any) -> Any:
    """Means of `factor` neighbours along one axis; of fewer at the end, if there are no more."""

    def average() -> Any:
        first = pixels if axis == 0 else tf.transpose(pixels, [1, 0, 2])
        means = tf.math.segment_mean(first, tf.range(tf.shape(first)[0]) // factor)
        return means if axis == 0 else tf.transpose(means, [1, 0, 2])

    return tf.cond(factor > 1, average, lambda: pixels)


def _scale(pixels: Any, axis: int, ends: Any, size: int) -> Any:
    """Fit `ends` of one axis into `size` pixels, by an antialiased bicubic filter, rounded to whole values."""
    shape = tf.shape(pixels)
    scale = size / (ends[1] - ends[0])
    down, across = (scale, 1.0) if axis == 0 else (1.0, scale)
    shift = -ends[0] * scale
    scaled = tf.raw_ops.ScaleAndTranslate(
        images=pixels[None],
        size=tf.stack([size, shape[1]] if axis == 0 else [shape[0], size]),
        scale=tf.stack([down, across]),
        translation=tf.stack([shift, 0.0] if axis == 0 else [0.0, shift]),
        kernel_type="keyscubic",
        antialias=True,
    )
    return _round(scaled[0])

"""`images.decode` and `images.to_input` once more, in TensorFlow, for the SavedModel's `serve_bytes`.

Who asks TensorFlow Serving should get the answer that Backtalk gives, so this follows Pillow step by step:
where it cuts, what it averages first, and that it rounds to whole values between its two passes.
Not followed: WebP, which TensorFlow cannot read, and orientation, which it ignores.
"""

from typing import Any

from backtalk.learn.flow import tf

_REDUCING_GAP = 3.0  # as in `images.to_input`


def decode_input(data: Any, size: int) -> Any:
    """One JPEG or PNG, as a string tensor → (size, size, 3) uint8."""
    pixels = tf.cond(tf.io.is_jpeg(data), lambda: _decode_jpeg(data), lambda: _decode_png(data))
    shape = tf.shape(pixels)
    side = tf.minimum(shape[0], shape[1])
    top, left = (shape[0] - side) // 2, (shape[1] - side) // 2
    square = pixels[top : top + side, left : left + side]
    factor = side // int(size * _REDUCING_GAP)
    square = tf.cond(factor > 1, lambda: _average(square, factor), lambda: square)
    scale = size * tf.cast(tf.maximum(factor, 1), tf.float32) / tf.cast(side, tf.float32)
    for down, across in ((1.0, scale), (scale, 1.0)):
        square = _scale(square, down, across, size)
    square.set_shape([size, size, 3])
    return tf.cast(square, tf.uint8)


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


def _average(square: Any, factor: Any) -> Any:
    """Means over `factor` × `factor` pixels, as whole values; over fewer at the end, if there are no more."""
    cells = tf.range(tf.shape(square)[0]) // factor
    for _axis in range(2):
        square = tf.transpose(tf.math.segment_mean(square, cells), [1, 0, 2])
    # Pillow multiplies by a truncated reciprocal: exact for powers of two, a little too small otherwise.
    count = tf.cast(factor * factor, tf.float32)
    is_power = tf.equal(tf.bitwise.bitwise_and(factor, factor - 1), 0)
    half = tf.floor(count / 2) - tf.where(is_power, 0.0, 0.25)
    return tf.floor(square + half / count + tf.where(is_power, 1e-4, 0.0))


def _scale(pixels: Any, down: Any, across: Any, size: int) -> Any:
    """One pass of an antialiased bicubic filter, rounded to whole values."""
    shape = tf.shape(pixels)
    one_way = [shape[0], size] if isinstance(down, float) else [size, shape[1]]
    scaled = tf.raw_ops.ScaleAndTranslate(
        images=pixels[None],
        size=tf.stack(one_way),
        scale=tf.stack([down, across]),
        translation=[0.0, 0.0],
        kernel_type="keyscubic",
        antialias=True,
    )
    return _round(scaled[0])

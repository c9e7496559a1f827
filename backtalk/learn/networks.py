"""The convolutional networks that embed images, as Keras models: uint8 pixels in, an embedding out.

Each takes `(N, S, S, 3)` uint8 and normalises inside, so whatever loads the model needs no recipe of its own.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, NamedTuple

import keras
import numpy as np
from keras import layers
from numpy.typing import NDArray

Weights = dict[str, NDArray[Any]]
BATCH_NORM_EPSILON = 1e-3


class Stage(NamedTuple):
    """A run of inverted bottlenecks of one width; `stride` belongs to the first of them."""

    repeats: int
    kernel: int
    stride: int
    expansion: int
    filters: int


#: EfficientNet-B0's stages (Tan and Le, 2019, table 1). The Lite variant drops squeeze-excite, uses ReLU6
#: and scales neither the stem nor the head.
LITE0_STAGES = (
    Stage(1, 3, 1, 1, 16),
    Stage(2, 3, 2, 6, 24),
    Stage(2, 5, 2, 6, 40),
    Stage(3, 3, 2, 6, 80),
    Stage(3, 5, 1, 6, 112),
    Stage(4, 5, 2, 6, 192),
    Stage(1, 3, 1, 6, 320),
)
LITE_STEM, LITE_WIDTH = 32, 1280
#: Width, depth and input size of each (tensorflow/tpu, models/official/efficientnet/lite).
LITE_SCALES = ((1.0, 1.0, 224), (1.0, 1.1, 240), (1.1, 1.2, 260))


def lite_stages(number: int) -> tuple[Stage, ...]:
    """EfficientNet-Lite0, 1 or 2. The first and the last stage keep their repeats at every depth."""
    width, depth, _ = LITE_SCALES[number]
    last = len(LITE0_STAGES) - 1
    return tuple(
        stage._replace(
            filters=_round_filters(stage.filters * width),
            repeats=stage.repeats if i in (0, last) else math.ceil(stage.repeats * depth),
        )
        for i, stage in enumerate(LITE0_STAGES)
    )


def _round_filters(filters: float) -> int:
    """To a multiple of eight, and never down by more than a tenth."""
    rounded = max(8, int(filters + 4) // 8 * 8)
    return rounded + 8 if rounded < 0.9 * filters else rounded


@dataclass(frozen=True)
class _Block:
    """One inverted bottleneck as Keras layers, named so that weights find their place."""

    name: str
    kernel: int
    stride: int
    expansion: int
    filters: int

    def __call__(self, x: Any) -> Any:
        start = x
        if self.expansion != 1:
            x = _convolve(x, self.filters_in(x) * self.expansion, 1, f"{self.name}_expand")
        x = layers.DepthwiseConv2D(
            self.kernel, self.stride, "same", use_bias=False, name=f"{self.name}_depthwise"
        )(x)
        x = _normalise(x, f"{self.name}_depthwise")
        x = _convolve(x, self.filters, 1, f"{self.name}_project", activate=False)
        if self.stride == 1 and self.filters_in(start) == self.filters:
            x = layers.Add(name=f"{self.name}_add")([start, x])
        return x

    @staticmethod
    def filters_in(x: Any) -> int:
        return int(x.shape[-1])


def _normalise(x: Any, name: str, activate: bool = True) -> Any:
    x = layers.BatchNormalization(epsilon=BATCH_NORM_EPSILON, name=f"{name}_norm")(x)
    return layers.ReLU(6.0, name=f"{name}_relu6")(x) if activate else x


def _convolve(x: Any, filters: int, kernel: int, name: str, stride: int = 1, activate: bool = True) -> Any:
    x = layers.Conv2D(filters, kernel, stride, "same", use_bias=False, name=name)(x)
    return _normalise(x, name, activate)


def _blocks(number: int) -> Iterator[_Block]:
    index = 0
    for stage in lite_stages(number):
        for repeat in range(stage.repeats):
            stride = stage.stride if repeat == 0 else 1
            yield _Block(f"block{index}", stage.kernel, stride, stage.expansion, stage.filters)
            index += 1


def build_lite(number: int, size: int) -> keras.Model:
    """EfficientNet-Lite up to its pooled features, `(N, size, size, 3)` uint8 → `(N, 1280)` float32.

    Padding is TensorFlow's `same`; the input is read as (x − 127) / 128, as in the original recipe
    (tensorflow/tpu, models/official/efficientnet/lite).
    """
    pixels = layers.Input((size, size, 3), dtype="uint8", name="image")
    x = layers.Rescaling(1 / 128, offset=-127 / 128, name="rescale")(pixels)
    x = _convolve(x, LITE_STEM, 3, "stem", stride=2)
    for block in _blocks(number):
        x = block(x)
    x = _convolve(x, LITE_WIDTH, 1, "head")
    return keras.Model(
        pixels, layers.GlobalAveragePooling2D(name="embedding")(x), name=f"efficientnet_lite{number}"
    )


def fill_lite(number: int, model: keras.Model, torch_weights: Weights) -> None:
    """Put weights in torch's names and order into the Keras model.

    Raises:
        ValueError: a weight is missing, or its shape is another.
    """
    _fill(model, torch_weights, "stem", "_conv_stem", "_bn0")
    _fill(model, torch_weights, "head", "_conv_head", "_bn1")
    for index, block in enumerate(_blocks(number)):
        source = f"_blocks.{index}."
        if block.expansion != 1:
            _fill(model, torch_weights, f"{block.name}_expand", f"{source}_expand_conv", f"{source}_bn0")
        _fill(model, torch_weights, f"{block.name}_depthwise", f"{source}_depthwise_conv", f"{source}_bn1")
        _fill(model, torch_weights, f"{block.name}_project", f"{source}_project_conv", f"{source}_bn2")


def _fill(model: keras.Model, weights: Weights, name: str, conv: str, norm: str) -> None:
    try:
        kernel = weights[f"{conv}.weight"]
        parts = [weights[f"{norm}.{part}"] for part in ("weight", "bias", "running_mean", "running_var")]
    except KeyError as error:
        raise ValueError(f"the weights lack {error}") from None
    # torch keeps (out, in, height, width); Keras (height, width, in, out), and for depthwise kernels
    # (height, width, channels, 1), where torch's `in` is the 1.
    depthwise = name.endswith("_depthwise")
    axes = (2, 3, 0, 1) if depthwise else (2, 3, 1, 0)
    model.get_layer(name).set_weights([kernel.transpose(axes)])
    model.get_layer(f"{name}_norm").set_weights(parts)


def build_tiny(size: int = 32, width: int = 16) -> keras.Model:
    """A small net for tests, used just like a real one; it embeds in well under a millisecond."""
    pixels = layers.Input((size, size, 3), dtype="uint8", name="image")
    x = layers.Rescaling(1 / 128, offset=-127 / 128, name="rescale")(pixels)
    x = layers.Conv2D(8, 5, 2, "same", name="edges")(x)
    x = layers.ReLU(6.0, name="edges_relu6")(x)
    x = layers.Conv2D(width, 5, 2, "same", name="shapes")(x)
    x = layers.ReLU(6.0, name="shapes_relu6")(x)
    return keras.Model(pixels, layers.GlobalAveragePooling2D(name="embedding")(x), name="tiny")


def fill_tiny(model: keras.Model, seed: int) -> None:
    """Random weights that are the same for a seed whatever the version of Keras."""
    draw = np.random.Generator(np.random.PCG64(seed))
    filled = []
    for value in model.get_weights():
        fan_in = max(1, int(np.prod(value.shape[:-1])))
        scale = np.sqrt(2 / fan_in) if value.ndim > 1 else 0.1
        filled.append(draw.normal(0, scale, value.shape).astype(np.float32))
    model.set_weights(filled)


def build_application(function: str, size: int, preprocessing: str) -> keras.Model:
    """One of Keras Applications with pooled features, `(N, size, size, 3)` uint8 → `(N, D)` float32.

    Args:
        preprocessing: `inside`, `tf`, `torch` or `caffe`: see `architectures.Preprocessing`.
    """
    pixels = layers.Input((size, size, 3), dtype="uint8", name="image")
    x = layers.Rescaling(1.0, name="as_float")(pixels)
    match preprocessing:
        case "inside":
            pass
        case "tf":
            x = layers.Rescaling(1 / 127.5, offset=-1.0, name="centre")(x)
        case "torch":
            means, deviations = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
            x = layers.Normalization(
                mean=[255 * m for m in means], variance=[(255 * d) ** 2 for d in deviations], name="centre"
            )(x)
        case "caffe":
            x = layers.Rescaling(1.0, offset=[-123.68, -116.779, -103.939], name="centre")(x)
            x = keras.ops.flip(x, axis=-1)
        case _:
            raise ValueError(f"There is no preprocessing {preprocessing!r}.")
    make = getattr(keras.applications, function)
    return make(include_top=False, weights=None, input_tensor=x, pooling="avg")


def settle_norms(model: keras.Model, seed: int) -> None:
    """Give random weights the batch norms of a net that has seen images.

    As they come, norms change nothing; then what most architectures make of their own first weights fades to
    less than float16 can hold, or grows with each block.
    """
    norms = [layer for layer in model.layers if isinstance(layer, layers.BatchNormalization)]
    drops = [layer for layer in model.layers if isinstance(layer, layers.Dropout)]
    kept = [layer.momentum for layer in norms], [layer.rate for layer in drops]
    for norm in norms:
        norm.momentum = 0.0
    for drop in drops:
        drop.rate = 0.0
    model(_draw_images(model.input_shape[1], seed), training=True)
    for norm, momentum in zip(norms, kept[0], strict=True):
        norm.momentum = momentum
    for drop, rate in zip(drops, kept[1], strict=True):
        drop.rate = rate


def _draw_images(size: int, seed: int, count: int = 64) -> NDArray[np.uint8]:
    """Squares, from a few large ones to one for each pixel, coloured and grey: (count, size, size, 3)."""
    draw = np.random.Generator(np.random.PCG64(seed))
    images = []
    for number in range(count):
        cells = min(size, 2 ** (number % 6))
        colours = draw.integers(0, 256, (cells, cells, 1 if number % 4 < 2 else 3), np.uint8)
        index = np.arange(size) * cells // size
        images.append(np.broadcast_to(colours[index][:, index], (size, size, 3)))
    return np.stack(images)

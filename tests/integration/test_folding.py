"""Frozen norms folded into convolutions: the same answers, the same slopes, the same variables."""

import os
from typing import Any

import numpy as np
import pytest

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
tf = pytest.importorskip("backtalk.learn.flow").tf

import keras  # noqa: E402  # after the switches that `flow` sets
from keras import layers  # noqa: E402

from backtalk.learn.architectures import ARCHITECTURES  # noqa: E402
from backtalk.learn.folding import fold_norms  # noqa: E402

SIDE = 32


def make_net(name: str) -> Any:
    """With norms that are not the identity, as those of trained nets."""
    keras.utils.set_random_seed(5)
    net = ARCHITECTURES[name].build(SIDE)
    draw = np.random.default_rng(5)
    for layer in net.layers:
        if isinstance(layer, layers.BatchNormalization):
            layer.set_weights([draw.uniform(0.5, 1.5, value.shape) for value in layer.get_weights()])
    return net


def draw_images() -> Any:
    return tf.constant(np.random.default_rng(1).integers(0, 256, (3, SIDE, SIDE, 3), np.uint8))


def find_slopes(net: Any, variables: list[Any]) -> tuple[Any, list[Any]]:
    """The embeddings, and the slopes of the sum of their squares."""
    values = [variable.value for variable in variables]
    with tf.GradientTape() as tape:
        embeddings = net(draw_images(), training=False)
        loss = tf.reduce_sum(embeddings**2)
    return embeddings.numpy(), [slope.numpy() for slope in tape.gradient(loss, values)]


def assert_alike(found: Any, expected: Any) -> None:
    """But for rounding, which is another order of sums."""
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5 * np.abs(expected).max())


def count_norms(net: Any) -> int:
    return sum(isinstance(getattr(x, "layer", x), layers.BatchNormalization) for x in net.layers)


@pytest.mark.filterwarnings("ignore:The structure of `inputs`")  # Keras Applications make a list of their one
@pytest.mark.parametrize("name", sorted(ARCHITECTURES))
def test_every_architecture_answers_and_learns_as_before(name: str) -> None:
    net = make_net(name)
    fold_norms(net)  # a run folds twice: for the head, then for all of it
    folded = fold_norms(net)
    assert count_norms(folded) == 0
    expected, slopes = find_slopes(net, net.trainable_variables)
    found, others = find_slopes(folded, net.trainable_variables)
    assert_alike(found, expected)
    for mine, theirs in zip(others, slopes, strict=True):
        assert np.linalg.norm(mine - theirs) <= 1e-3 * np.linalg.norm(theirs)


def test_what_the_folded_net_learns_the_net_itself_knows() -> None:
    net = make_net("efficientnet-lite0")
    folded = fold_norms(net)
    for variable in net.trainable_variables:
        variable.assign(variable.value * 1.01)
    expected = net(draw_images(), training=False).numpy()
    assert_alike(folded(draw_images(), training=False).numpy(), expected)
    assert {id(v) for v in net.trainable_variables} <= {id(v) for v in folded.trainable_variables}


def build_odd_net() -> Any:
    """A convolution with a bias before its norm, one whose output two use, one with an activation, and a
    norm that follows none."""
    image = layers.Input((SIDE, SIDE, 3), dtype="uint8")
    x = layers.Rescaling(1 / 255)(image)
    x = layers.BatchNormalization()(x)
    x = layers.BatchNormalization(scale=False)(layers.Conv2D(4, 3, 2, dilation_rate=1)(x))
    shared = layers.Conv2D(4, 3, padding="same")(x)
    x = layers.Add()([shared, layers.BatchNormalization()(shared)])
    x = layers.BatchNormalization()(layers.Conv2D(4, 3, activation="relu")(x))
    x = layers.BatchNormalization(center=False)(layers.DepthwiseConv2D(3, depth_multiplier=2)(x))
    return keras.Model(image, layers.GlobalAveragePooling2D()(x))


def test_only_what_is_a_line_after_a_convolution_of_its_own_is_folded() -> None:
    net = build_odd_net()
    draw = np.random.default_rng(2)
    net.set_weights([draw.uniform(0.5, 1.5, value.shape) for value in net.get_weights()])
    folded = fold_norms(net)
    assert (count_norms(net), count_norms(folded)) == (5, 3)
    expected, slopes = find_slopes(net, net.trainable_variables)
    found, others = find_slopes(folded, net.trainable_variables)
    assert_alike(found, expected)
    for mine, theirs in zip(others, slopes, strict=True):
        assert np.linalg.norm(mine - theirs) <= 1e-3 * np.linalg.norm(theirs)

"""The learner, step by step: rate, what moves, optimiser and loss, against sums done by hand."""

import os
from typing import Any

import numpy as np
import pytest

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
tf = pytest.importorskip("backtalk.learn.flow").tf

import keras  # noqa: E402  # after the switches that `flow` sets
from keras import layers  # noqa: E402

from backtalk.learn.learner import Learner, rate_at  # noqa: E402
from backtalk.recipes import Recipe  # noqa: E402

SIDE, CLASSES, BATCH = 8, 3, 5
PLAIN = {"optimizer": "sgd", "momentum": 0.0, "weight_decay": 0.0, "clip_norm": None, "warmup_epochs": 0.0}


def write_recipe(**values: Any) -> Recipe:
    return Recipe.parse("of a test", PLAIN | values)


# --- the rate ----------------------------------------------------------------------------------------
def list_rates(steps: int, per_epoch: int, **values: Any) -> np.ndarray:
    recipe = write_recipe(learning_rate=0.5, **values)
    return np.array([rate_at(step, steps, per_epoch, recipe) for step in range(steps)])


def fall(steps: int) -> np.ndarray:
    return 0.25 * (1 + np.cos(np.pi * np.arange(steps) / steps))


def test_the_rate_climbs_in_a_line_and_falls_along_a_cosine_to_nothing() -> None:
    rates = list_rates(30, 5, warmup_epochs=2)
    np.testing.assert_allclose(rates[:10], 0.05 * np.arange(1, 11))
    np.testing.assert_allclose(rates[10:], fall(20))
    assert rates.argmax() in (9, 10)
    assert 0 < rates[-1] < 0.01 * rates.max()


def test_a_warm_up_of_half_an_epoch_counts_steps() -> None:
    rates = list_rates(16, 8, warmup_epochs=0.5)
    np.testing.assert_allclose(rates, [0.125, 0.25, 0.375, 0.5, *fall(12)])


def test_a_warm_up_that_is_longer_than_the_run_reaches_the_peak_at_its_end() -> None:
    np.testing.assert_allclose(list_rates(5, 5, warmup_epochs=100), [0.1, 0.2, 0.3, 0.4, 0.5])


def test_without_a_warm_up_it_begins_at_the_peak() -> None:
    np.testing.assert_allclose(list_rates(6, 3, warmup_epochs=0), fall(6))
    assert list_rates(1, 1, warmup_epochs=0).tolist() == [0.5]


# --- what it moves -----------------------------------------------------------------------------------
def build_net() -> Any:
    """With norms of all kinds: one that follows no convolution, and two that can be folded."""
    image = layers.Input((SIDE, SIDE, 3), dtype="uint8")
    x = layers.Rescaling(1 / 255)(image)
    x = layers.BatchNormalization(name="first")(x)
    x = layers.BatchNormalization(name="second_norm")(layers.Conv2D(4, 3, name="second")(x))
    x = layers.ReLU()(x)
    x = layers.BatchNormalization(name="third_norm")(layers.DepthwiseConv2D(3, name="third")(x))
    net = keras.Model(image, layers.GlobalAveragePooling2D()(x))
    draw = np.random.default_rng(3)
    net.set_weights([draw.uniform(0.5, 1.5, value.shape) for value in net.get_weights()])
    return net


LEARNING = ["first", "second", "second_norm", "third", "third_norm"]  # layers with weights, in order


def start(net: Any, **values: Any) -> Learner:
    """With a head that is not all zeros, through which slopes would not come."""
    learner = Learner(net, CLASSES, write_recipe(**values))
    draw = np.random.default_rng(4)
    width = net.output_shape[-1]
    head = draw.normal(size=(CLASSES, width)), draw.normal(size=CLASSES)
    learner.put_head(*(part.astype(np.float32) for part in head))
    return learner


def draw_batch(weight: float = 1.0) -> tuple[Any, np.ndarray, np.ndarray]:
    """Images, targets whose rows sum to one, and weights that differ, times `weight`."""
    draw = np.random.default_rng(5)
    images = draw.integers(0, 256, (BATCH, SIDE, SIDE, 3), np.uint8)
    targets = draw.dirichlet(np.ones(CLASSES), BATCH).astype(np.float32)
    weights = draw.uniform(0.5, 2, BATCH).astype(np.float32) * np.float32(weight)
    return tf.constant(images), targets, weights


def find_moved(unfreeze: Any) -> tuple[set[str], bool]:
    """Paths of the weights that two steps change in a net, and whether the head is among them."""
    net = build_net()
    learner = start(net, unfreeze=unfreeze, optimizer="adamw", weight_decay=0.1)
    before = {value.path: np.array(value.numpy()) for value in net.variables}
    head = list(learner.weights().values())[-2:]
    for _ in range(2):
        learner.learn(*draw_batch(), 0.1)
    moved = {value.path for value in net.variables if not np.array_equal(value.numpy(), before[value.path])}
    after = list(learner.weights().values())[-2:]
    return moved, all(not np.array_equal(one, other) for one, other in zip(head, after, strict=True))


@pytest.mark.parametrize("top", [1, 2, 4, "all", 5, 6])
def test_the_top_layers_that_are_asked_for_move_and_all_others_keep_their_bits(top: int | str) -> None:
    moved, is_head_moved = find_moved(top)
    expected = LEARNING if top == "all" else LEARNING[-min(int(top), len(LEARNING)) :]
    learnt = ("kernel", "bias", "gamma", "beta")  # and never the statistics of a norm
    assert moved == {v.path for v in build_net().variables if is_of(v, expected, learnt)}
    assert is_head_moved


def is_of(value: Any, names: list[str], kinds: tuple[str, ...]) -> bool:
    layer, _, kind = value.path.rpartition("/")
    return layer in names and kind in kinds


def test_it_answers_with_the_head_that_was_put_on_it() -> None:
    net, draw = build_net(), np.random.default_rng(8)
    head = draw.normal(size=(CLASSES, 4)).astype(np.float32), draw.normal(size=CLASSES).astype(np.float32)
    learner = Learner(net, CLASSES, write_recipe())
    learner.put_head(*head)
    images = draw_batch()[0]
    expected = net(images, training=False).numpy() @ head[0].T + head[1]
    np.testing.assert_allclose(learner.logits(images), expected, rtol=1e-4)


# --- the optimiser -----------------------------------------------------------------------------------
def build_line() -> Any:
    """Mean colours times a matrix: slopes that can be done by hand."""
    image = layers.Input((SIDE, SIDE, 3), dtype="uint8")
    means = layers.Rescaling(1 / 255)(layers.GlobalAveragePooling2D()(layers.Rescaling(1.0)(image)))
    net = keras.Model(image, layers.Dense(4, name="line")(means))
    draw = np.random.default_rng(6)
    net.set_weights([draw.normal(size=value.shape) for value in net.get_weights()])
    return net


def list_weights(learner: Learner) -> list[np.ndarray]:
    """Kernel and bias of the line, then of the head."""
    return [value.astype(np.float64) for value in learner.weights().values()]


def find_slopes(parts: list[np.ndarray], batch: tuple[Any, np.ndarray, np.ndarray]) -> list[np.ndarray]:
    """Of the mean of weighted cross-entropies, in the order of `list_weights`."""
    kernel, bias, head, _ = parts
    images, targets, weights = batch
    means = images.numpy().mean(axis=(1, 2)) / 255
    embeddings = means @ kernel + bias
    wrong = (soften(embeddings @ head + parts[3]) - targets) * weights[:, None] / BATCH
    back = wrong @ head.T
    return [means.T @ back, back.sum(axis=0), embeddings.T @ wrong, wrong.sum(axis=0)]


def soften(logits: np.ndarray) -> np.ndarray:
    powers = np.exp(logits - logits.max(axis=1, keepdims=True))
    return powers / powers.sum(axis=1, keepdims=True)


def assert_alike(found: list[np.ndarray], expected: list[np.ndarray]) -> None:
    for mine, theirs in zip(found, expected, strict=True):
        np.testing.assert_allclose(mine, theirs, rtol=1e-4, atol=1e-6)


def test_steps_of_sgd_are_those_of_nesterov() -> None:
    learner = start(build_line(), momentum=0.9)
    parts = list_weights(learner)
    speeds = [np.zeros_like(part) for part in parts]
    for rate in (0.3, 0.2, 0.1):
        learner.learn(*draw_batch(), rate)
        slopes = find_slopes(parts, draw_batch())
        speeds = [0.9 * speed - rate * slope for speed, slope in zip(speeds, slopes, strict=True)]
        parts = [
            part + 0.9 * speed - rate * slope
            for part, speed, slope in zip(parts, speeds, slopes, strict=True)
        ]
        assert_alike(list_weights(learner), parts)


def test_steps_of_adamw_are_those_of_adam() -> None:
    learner = start(build_line(), optimizer="adamw")
    parts = list_weights(learner)
    means, squares = [np.zeros_like(part) for part in parts], [np.zeros_like(part) for part in parts]
    for number, rate in enumerate((0.03, 0.02, 0.01), 1):
        learner.learn(*draw_batch(), rate)
        scale = rate * np.sqrt(1 - 0.999**number) / (1 - 0.9**number)
        for i, slope in enumerate(find_slopes(parts, draw_batch())):
            means[i] = 0.9 * means[i] + 0.1 * slope
            squares[i] = 0.999 * squares[i] + 0.001 * slope**2
            parts[i] = parts[i] - scale * means[i] / (np.sqrt(squares[i]) + 1e-7)
        assert_alike(list_weights(learner), parts)


@pytest.mark.parametrize("share", [0.25, 4.0])
def test_the_norm_of_all_slopes_together_is_what_is_clipped(share: float) -> None:
    before = list_weights(start(build_line()))
    slopes = find_slopes(before, draw_batch())
    norm = np.sqrt(sum((slope**2).sum() for slope in slopes))
    learner = start(build_line(), clip_norm=share * norm)
    learner.learn(*draw_batch(), 0.5)
    scale = 0.5 * min(1.0, share)
    expected = [part - scale * slope for part, slope in zip(before, slopes, strict=True)]
    assert_alike(list_weights(learner), expected)


@pytest.mark.parametrize("optimizer", ["sgd", "adamw"])
def test_weights_decay_by_rate_and_share_and_biases_and_norms_do_not(optimizer: str) -> None:
    net = build_net()
    values = {"weight_decay": 0.25, "momentum": 0.9, "clip_norm": 1.0}
    learner = start(net, optimizer=optimizer, **values)
    before = {value.path: np.array(value.numpy()) for value in net.variables}
    head, bias = list_weights(learner)[-2:]
    learner.learn(*draw_batch(weight=0), 0.5)  # nothing that weighs anything: no slope at all
    for value in net.variables:
        left = 0.875 if value.path.endswith("kernel") else 1.0
        np.testing.assert_allclose(value.numpy(), left * before[value.path], rtol=1e-6, err_msg=value.path)
    assert_alike(list_weights(learner)[-2:], [0.875 * head, bias])


@pytest.mark.parametrize("optimizer", ["sgd", "adamw"])
def test_a_decay_of_nothing_leaves_every_bit(optimizer: str) -> None:
    learner = start(build_net(), optimizer=optimizer)
    before = list_weights(learner)
    learner.learn(*draw_batch(weight=0), 0.5)
    for mine, theirs in zip(list_weights(learner), before, strict=True):
        np.testing.assert_array_equal(mine, theirs)


# --- the loss ----------------------------------------------------------------------------------------
@pytest.mark.parametrize("smoothing", [0.0, 0.2])
def test_the_loss_is_the_mean_of_weighted_cross_entropies_with_smoothed_labels(smoothing: float) -> None:
    learner = start(build_net(), label_smoothing=smoothing)
    images, targets, weights = draw_batch()
    said = np.log(soften(learner.logits(images).astype(np.float64)))
    each = -((targets * (1 - smoothing) + smoothing / CLASSES) * said).sum(axis=1)
    for scale in (1, 3, 0):
        loss = learner.learn(images, targets, weights * np.float32(scale), 0.0)
        assert loss == pytest.approx((each * weights).mean() * scale, rel=1e-5)

"""Averages of the weights: what validates and what counts in the end, while learning goes on without them."""

import os
from typing import Any

import numpy as np
import pytest

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
tf = pytest.importorskip("backtalk.learn.flow").tf

from backtalk.learn.architectures import get_architecture  # noqa: E402  # after the switches of `flow`
from backtalk.learn.learner import Learner  # noqa: E402
from backtalk.recipes import Recipe  # noqa: E402

KEPT = 0.75


def make_learner(**values: Any) -> Learner:
    model = get_architecture("tiny").build_filled(32, None)
    blank = np.zeros((2, model.output_shape[-1]), np.float32), np.zeros(2, np.float32)
    return Learner(model, *blank, Recipe(**values))


def take_step(learner: Learner, step: int) -> dict[str, np.ndarray]:
    draw = np.random.default_rng(step)
    images = tf.constant(draw.integers(0, 256, (4, 32, 32, 3), np.uint8))
    targets = tf.one_hot(draw.integers(0, 2, 4), 2)
    learner.learn(images, targets, tf.ones(4), 0.01)
    return learner.weights()


def assert_equal(found: dict[str, np.ndarray], expected: dict[str, np.ndarray], tolerance: float = 0) -> None:
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        np.testing.assert_allclose(found[name], value, rtol=0, atol=tolerance)


def test_the_average_keeps_its_share_at_each_step_and_is_put_in_place_on_request() -> None:
    learner, plain = make_learner(averaging=KEPT), make_learner()
    average = take_step(learner, 0)
    assert_equal(take_step(plain, 0), average)
    for step in range(1, 6):
        weights = take_step(learner, step)
        assert_equal(take_step(plain, step), weights)  # learning itself goes on as without
        average = {name: KEPT * average[name] + (1 - KEPT) * weights[name] for name in weights}
    with learner.averaged():
        assert_equal(learner.weights(), average, tolerance=1e-6)
    assert_equal(learner.weights(), weights)
    learner.settle()
    assert_equal(learner.weights(), average, tolerance=1e-6)


def test_without_averaging_the_weights_are_what_counts() -> None:
    learner = make_learner()
    weights = take_step(learner, 0)
    with learner.averaged():
        assert_equal(learner.weights(), weights)
    learner.settle()
    assert_equal(learner.weights(), weights)

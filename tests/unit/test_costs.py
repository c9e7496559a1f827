"""Budgets: what is judged where the backbone changes."""

import numpy as np
import pytest

from backtalk.costs import Costs, check_latency, check_size
from backtalk.errors import InvalidRecipe
from backtalk.policy import Policy
from backtalk.recipes import Recipe, list_recipes, load_recipe


def costs(ratio: float, noise: float = 0.0, n: int = 24, **limits: float) -> Costs:
    draw = np.random.default_rng(3)
    champion = 10 * np.exp(draw.normal(0, noise, n))
    return Costs(1000, 300, champion, ratio * 10 * np.exp(draw.normal(0, noise, n)), **limits)


def test_a_budget_of_the_recipe_goes_before_the_policy_s() -> None:
    policy = Policy(max_size_ratio=0.2, max_latency_ratio=0.5)
    assert check_size(costs(1.0), policy).passed is False
    assert check_size(costs(1.0, size_limit=0.3), policy).passed
    assert check_latency(costs(0.6), policy).passed is False
    assert check_latency(costs(0.6, latency_limit=0.7), policy).passed


def test_a_slower_candidate_fails_only_where_the_measurements_show_it() -> None:
    policy = Policy(max_latency_ratio=1.0)
    slow, noisy = check_latency(costs(1.3), policy), check_latency(costs(1.1, noise=1.0), policy)
    assert (slow.passed, noisy.passed) == (False, True)
    assert slow.bound is not None
    assert noisy.bound is not None
    assert noisy.value is not None
    assert noisy.bound < noisy.value


def test_at_the_limit_one_candidate_in_ten_or_fewer_is_refused() -> None:
    policy = Policy(max_latency_ratio=1.0, confidence=0.9)
    draw = np.random.default_rng(0)
    refused = 0
    for _ in range(2000):
        ratios = np.exp(draw.normal(0, 0.3, 24))
        refused += check_latency(Costs(1, 1, np.ones(24), ratios), policy).passed is False
    assert refused / 2000 <= 0.11


@pytest.mark.parametrize("name", list_recipes(None))
def test_each_recipe_that_comes_along_can_be_read(name: str) -> None:
    assert load_recipe(name, None).description


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({"method": "distil"}, "needs the section `distil`"),
        ({"distil": {"student": "tiny"}}, "no other takes it"),
        ({"method": "distil", "distil": {"student": "tiny", "teachers": ["best"]}}, "none of champion"),
        ({"method": "distil", "distil": {"student": "tiny", "teachers": []}}, "teachers"),
        ({"method": "quantise", "quantise": {"images": 1}}, "images"),
        ({"budget": {"size": 0}}, "size"),
        ({"quantise": {"bits": 4}}, "there is no such key"),
    ],
)
def test_a_bad_recipe_is_refused_with_its_key(values: dict[str, object], said: str) -> None:
    with pytest.raises(InvalidRecipe, match=said):
        Recipe.parse("mine", values)

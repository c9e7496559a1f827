"""The tables of docs/gate.md rest on rules written for arrays: they must be the gate's own."""

from dataclasses import replace

import numpy as np

from backtalk.answers import Past
from bench import gate_classes
from bench.gate_trials import World, check_against_judge, conclude, draw
from tests.judging import judge_on, make_answers, row


def test_the_simulated_verdicts_are_those_of_the_gate():
    assert check_against_judge(np.random.default_rng(7), worlds=60) == 120


def test_up_to_discordance_a_tenth_the_gate_is_as_strict_as_it_says():
    rng = np.random.default_rng(8)
    passed = {
        (difference, n): conclude(draw(World(n, difference, 0.1), 20_000, rng))[0].mean()
        for difference, n in ((-0.02, 200), (-0.05, 500), (0.03, 1000))
    }
    assert passed[-0.02, 200] < 0.11
    assert passed[-0.05, 500] < 0.001
    assert passed[0.03, 1000] > 0.9


def test_the_simulated_veto_of_a_class_against_its_anchors_is_that_of_the_gate():
    rng = np.random.default_rng(9)
    struck = 0
    for _ in range(150):
        n, anchors = int(rng.integers(15, 60)), int(rng.integers(1, 6))
        right = rng.random(n) < 0.7
        before = rng.random((anchors, n)) < rng.uniform(0.6, 1, (anchors, 1))
        holdout = make_answers(right=int(right.sum()), wrong=int((~right).sum()), label=1)
        right = np.sort(right)[::-1]
        seen = np.ones(n, np.bool_)
        past = tuple(Past(number, seen, flags) for number, flags in enumerate(before, start=1))
        b, c = (right & ~before).sum(axis=1), (~right & before).sum(axis=1)
        ours = bool(gate_classes.is_struck(b, c, np.array(n)))
        found = row(judge_on(replace(holdout, past=past)), "class-recall-anchor")
        assert (found.passed is False) is ours, (n, b, c)
        struck += ours
    assert 10 < struck < 140

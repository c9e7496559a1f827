"""The tables of docs/gate.md rest on rules written for arrays: they must be the gate's own."""

import numpy as np

from bench.gate_trials import World, check_against_judge, conclude, draw


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

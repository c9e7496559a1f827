"""Measures what two backbones cost on this machine, for the judge."""

from time import perf_counter

import numpy as np

from backtalk.costs import Costs
from backtalk.recipes import Budget
from backtalk.runtime import Backbone
from backtalk.system import System

PAIRS, WARM_UP = 24, 3  # images


def measure_costs(system: System, champion: str, candidate: str, budget: Budget | None) -> Costs | None:
    """Both, image by image in turn, so that whatever else the machine does meets both; None if they are one.

    What an image shows does not change what it costs, so noise will do.

    Raises:
        ArtefactInvalid: a backbone is missing or damaged.
    """
    if champion == candidate:
        return None
    backbones = [Backbone(system.versions.backbone_dir(digest), 1) for digest in (champion, candidate)]
    draw = np.random.default_rng(0)
    spent = np.zeros((PAIRS, 2))
    for number in range(-WARM_UP, PAIRS):
        order = (0, 1) if number % 2 else (1, 0)
        for which in order:
            size = backbones[which].input_size
            image = draw.integers(0, 256, (1, size, size, 3), np.uint8)
            began = perf_counter()
            backbones[which].embed(image)
            if number >= 0:
                spent[number, which] = 1000 * (perf_counter() - began)
    return Costs(
        champion_bytes=backbones[0].byte_size,
        candidate_bytes=backbones[1].byte_size,
        champion_ms=spent[:, 0],
        candidate_ms=spent[:, 1],
        size_limit=budget.size if budget else None,
        latency_limit=budget.latency if budget else None,
    )

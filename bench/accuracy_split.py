"""How the solar cells are divided to measure accuracy: three quarters to learn from, one to be asked.

The published protocol (Deitsch et al., 2019): 2,624 cells, defective from a probability of one half, a
quarter of them for the test, each part with the same shares of both labels and of both kinds of module.
"""

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from demo.cells import LABELS, Cell

TEST_SHARE = 0.25
VALIDATION_SHARE = 0.1  # of all cells, as Backtalk draws it for a base folder; taken from the three quarters

Places = NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class Split:
    """Places in the list of cells, each in one part only, sorted."""

    train: Places
    validation: Places
    test: Places


def draw_split(cells: Sequence[Cell], seed: int) -> Split:
    """The same seed draws the same parts. Stratified by label and kind of module."""
    generator = np.random.default_rng(seed)
    parts: dict[str, list[int]] = {"train": [], "validation": [], "test": []}
    for _, stratum in sorted(_list_strata(cells).items()):
        shuffled = generator.permutation(stratum)
        test = round(TEST_SHARE * len(shuffled))
        learned = test + round(VALIDATION_SHARE * len(shuffled))
        parts["test"] += shuffled[:test].tolist()
        parts["validation"] += shuffled[test:learned].tolist()
        parts["train"] += shuffled[learned:].tolist()
    return Split(**{name: np.sort(np.array(places, np.int64)) for name, places in parts.items()})


def number_labels(cells: Sequence[Cell]) -> NDArray[np.int32]:
    """(N,): each cell's label as a place in `demo.cells.LABELS`."""
    return np.array([LABELS.index(cell.label) for cell in cells], np.int32)


def _list_strata(cells: Sequence[Cell]) -> dict[tuple[str, str], list[int]]:
    strata: defaultdict[tuple[str, str], list[int]] = defaultdict(list)
    for place, cell in enumerate(cells):
        strata[cell.label, cell.module].append(place)
    return strata

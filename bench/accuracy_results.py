"""Results of the accuracy benchmark: a file for each seed and arm, so that a rerun goes on; their summary."""

import json
import os
from collections.abc import Iterable, Sequence
from pathlib import Path
from statistics import mean, stdev
from typing import Any

from rich.table import Table

from bench.accuracy_arms import ARMS

#: Deitsch et al., Solar Energy 185 (2019) 455-468: accuracy on this data set, functional against defective.
PUBLISHED = {"SVM, published": 0.8244, "VGG-19, published": 0.8842}
NAMES = {
    "head": "head alone",
    "full": "full run",
    "int8": "its 8-bit copy",
    "student": "its student",
}

Row = dict[str, Any]


class Results:
    """A folder of finished measurements. One with other settings does not count, and is written over."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def find(self, seed: int, arm: str, settings: dict[str, Any]) -> Row | None:
        try:
            row: Row = json.loads(self._path(seed, arm).read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return None
        return row if row.get("settings") == settings else None

    def put(self, row: Row) -> None:
        """Whole or not at all: a rerun never finds half a file."""
        path = self._path(row["seed"], row["arm"])
        path.parent.mkdir(parents=True, exist_ok=True)
        aside = path.with_suffix(f".{os.getpid()}.new")
        aside.write_text(json.dumps(row, indent=1), encoding="utf-8")
        aside.rename(path)

    def _path(self, seed: int, arm: str) -> Path:
        return self._folder / f"{arm}-{seed}.json"


def sum_up(rows: Iterable[Row]) -> dict[str, Row]:
    """By arm: mean, spread and range over seeds, as shares; median seconds."""
    found = list(rows)
    return {arm: _sum_up([row for row in found if row["arm"] == arm]) for arm in ARMS if _has(found, arm)}


def _has(rows: Sequence[Row], arm: str) -> bool:
    return any(row["arm"] == arm for row in rows)


def _sum_up(rows: Sequence[Row]) -> Row:
    values = [row["accuracy"] for row in rows]
    return {
        "seeds": sorted(row["seed"] for row in rows),
        "mean": mean(values),
        "std": stdev(values) if len(values) > 1 else None,
        "min": min(values),
        "max": max(values),
        "of": {name: mean(row["of"][name] for row in rows) for name in rows[0]["of"]},
        "seconds": mean(row["seconds"] for row in rows),
    }


def make_table(summary: dict[str, Row]) -> Table:
    """Accuracy in per cent, the published figures first."""
    of = sorted({name for row in summary.values() for name in row["of"]})
    table = Table("what", "seeds", "%", "spread", "min … max", *of, "s")
    for name, value in PUBLISHED.items():
        table.add_row(name, "1", f"{100 * value:.2f}", *[""] * (3 + len(of)))
    for arm, row in summary.items():
        spread = "" if row["std"] is None else f"{100 * row['std']:.2f}"
        table.add_row(
            NAMES[arm],
            str(len(row["seeds"])),
            f"[bold]{100 * row['mean']:.2f}[/]",
            spread,
            f"{100 * row['min']:.1f} … {100 * row['max']:.1f}",
            *(f"{100 * row['of'][name]:.1f}" for name in of),
            f"{row['seconds']:.0f}",
        )
    return table

"""`make bench-accuracy`: how often versions are right on real images, over seeds, beside what is published.

    python -m bench.accuracy --threads 1 --jobs 2

Seeds and size of images are those of the table in docs/accuracy.md. Each seed draws its own quarter of the
solar cells for the test. What is done already is not done again, and a full run that was cut off goes on from
its last checkpoint.
"""

import argparse
import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeElapsedColumn

from backtalk.recipes import load_recipe
from bench.accuracy_arms import ARMS, School, Settings
from bench.accuracy_results import Results, make_table, sum_up
from bench.machine import describe_machine, write_json
from demo.cells import find_data, load_cells

OUT = Path(__file__).parent / "out" / "accuracy.json"
WORK = Path("build") / "accuracy"


def main(words: list[str] | None = None) -> int:
    """Measure what is missing, then print the table; 1 if a measurement failed."""
    given = _parse(sys.argv[1:] if words is None else words)
    settings = _settle(given)
    if given.only is not None:
        return _measure_one(given, settings, *given.only)
    console = Console()
    results = Results(given.work / "results")
    failed = _measure_all(given, settings, results, console)
    found = (
        results.find(seed, arm, _describe(settings, given, arm)) for seed in given.seeds for arm in given.arms
    )
    rows = [row for row in found if row is not None]
    summary = sum_up(rows)
    machine = describe_machine()
    taken_at = datetime.now(UTC).isoformat()
    write_json(given.out, {"taken_at": taken_at, "machine": machine, "summary": summary, "rows": rows})
    console.print(f"\n{machine['cpu']}, {given.threads} threads a run, {given.jobs} at a time")
    console.print(make_table(summary))
    return 1 if failed else 0


def _parse(words: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m bench.accuracy", description=__doc__)
    parser.add_argument("--seeds", nargs="+", default=[0, 1, 2, 3, 4], type=int, help="each draws a split")
    parser.add_argument("--arms", nargs="+", default=list(ARMS), choices=ARMS)
    parser.add_argument("--backbone", default="efficientnet-lite0")
    parser.add_argument("--input-size", type=int, default=260, help="side of its images, pixels")
    parser.add_argument("--weights", help="a file, or `random`; ImageNet's by default")
    parser.add_argument("--full", default="surfaces", help="recipe of the full run")
    parser.add_argument("--int8", default="int8", help="recipe of its 8-bit copy")
    parser.add_argument("--student", default="faster-surfaces", help="recipe of the student")
    parser.add_argument("--recipes", type=Path, help="folder with recipes, looked at first")
    parser.add_argument(
        "--cells", type=int, help="only so many cells, evenly taken: to try the benchmark itself"
    )
    parser.add_argument("--threads", type=int, default=os.cpu_count() or 1, help="of each run")
    parser.add_argument("--jobs", type=int, default=1, help="seeds at a time")
    parser.add_argument("--work", type=Path, default=WORK, help="what a rerun goes on from")
    parser.add_argument("--out", type=Path, default=OUT)
    parser.add_argument("--only", nargs=2, metavar=("SEED", "ARM"), help=argparse.SUPPRESS)
    given = parser.parse_args(words)
    given.words = words
    return given


def _settle(given: argparse.Namespace) -> Settings:
    recipes = {arm: load_recipe(getattr(given, arm), given.recipes) for arm in ARMS if arm != "head"}
    return Settings(given.backbone, given.input_size, given.weights, recipes, given.threads)


def _describe(settings: Settings, given: argparse.Namespace, arm: str) -> dict[str, Any]:
    return settings.describe(arm) | {"cells": given.cells}


# --- the process of one measurement ---------------------------------------------------------------
def _measure_one(given: argparse.Namespace, settings: Settings, seed: str, arm: str) -> int:
    """Write one result; progress goes to the standard output, a line of JSON each."""

    def tell(part: str, fraction: float = 0.0, **more: Any) -> None:
        line = {"part": part, "fraction": fraction, "loss": more.get("loss")}
        print(json.dumps(line), flush=True)

    cells = load_cells(find_data())
    cells = cells[:: max(1, len(cells) // given.cells)] if given.cells else cells
    row = School(cells, given.work, int(seed), settings, tell).run(arm)
    told = {"seed": int(seed), "arm": arm, "settings": _describe(settings, given, arm)}
    Results(given.work / "results").put(told | row)
    return 0


# --- the process that starts them -----------------------------------------------------------------
def _measure_all(
    given: argparse.Namespace, settings: Settings, results: Results, console: Console
) -> list[tuple[int, str]]:
    """Seeds side by side, the arms of each one after another; what failed."""
    columns = (TextColumn("{task.description}"), BarColumn(), TaskProgressColumn(), TimeElapsedColumn())
    failed: list[tuple[int, str]] = []

    def measure(seed: int) -> None:
        for arm in given.arms:
            if results.find(seed, arm, _describe(settings, given, arm)) is not None:
                continue
            task = progress.add_task(f"seed {seed}, {arm}", total=1.0)
            show_line = line_writer(console, f"seed {seed}, {arm}")
            for told in _start_one(given, seed, arm):
                said = f"seed {seed}, {arm}: {told['part']}{_say_loss(told)}"
                progress.update(task, completed=told["fraction"], description=said)
                if not console.is_terminal:
                    show_line(told)
            progress.remove_task(task)
            row = results.find(seed, arm, _describe(settings, given, arm))
            if row is None:
                failed.append((seed, arm))
                console.print(f"[red]seed {seed}, {arm}: failed; {_log(given, seed, arm)} says why[/]")
                return  # the others build on it
            console.print(f"seed {seed}, {arm}: {100 * row['accuracy']:.2f} % in {row['seconds']:.0f} s")

    bars = Progress(*columns, console=console, disable=not console.is_terminal)
    with bars as progress, ThreadPoolExecutor(given.jobs) as pool:
        list(pool.map(measure, given.seeds))
    return failed


def line_writer(console: Console, name: str) -> Callable[[dict[str, Any]], None]:
    """For output that shows no bars: a line when a part begins, and about every tenth of it."""
    last: tuple[str, int] | None = None

    def show(told: dict[str, Any]) -> None:
        nonlocal last
        reached = told["part"], min(10, int(10 * told["fraction"]))
        if reached != last:
            last = reached
            line = f"{name}: {reached[0]} {10 * reached[1]} %{_say_loss(told)}"
            console.print(line, highlight=False, soft_wrap=True)

    return show


def _say_loss(told: dict[str, Any]) -> str:
    return "" if told["loss"] is None else f", loss {told['loss']:.3f}"


def _start_one(given: argparse.Namespace, seed: int, arm: str) -> Iterator[dict[str, Any]]:
    """A process of its own, as a run in service has: TensorFlow takes its threads and switches but once."""
    log = _log(given, seed, arm)
    log.parent.mkdir(parents=True, exist_ok=True)
    words = [sys.executable, "-m", "bench.accuracy", *given.words, "--only", str(seed), arm]
    with log.open("w") as sink:
        child = subprocess.Popen(words, stdout=subprocess.PIPE, stderr=sink, text=True)
        assert child.stdout is not None
        try:
            for line in child.stdout:
                if line.startswith("{"):
                    yield json.loads(line)
        finally:
            if child.wait(timeout=60) != 0:
                print(f"it ended with status {child.returncode}", file=sink)


def _log(given: argparse.Namespace, seed: int, arm: str) -> Path:
    return Path(given.work) / "logs" / f"{arm}-{seed}.log"


if __name__ == "__main__":
    sys.exit(main())

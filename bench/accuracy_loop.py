"""`python -m bench.accuracy_loop`: accuracy against labels spent, Backtalk beside random labelling; a figure.

Each seed is the split that `bench.accuracy` draws by it. Each strategy and seed is written at once, and a
rerun does what is missing.
"""

import argparse
import json
import os
import sys
from concurrent.futures import ProcessPoolExecutor, as_completed
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.progress import track

from bench.accuracy_embeddings import embed_cells, prepare
from bench.accuracy_rounds import RANDOM, ROUND, STRATEGIES, Course, World
from bench.accuracy_split import draw_split, number_labels
from bench.machine import describe_machine, write_json
from demo.cells import find_data, load_cells

OUT = Path(__file__).parent / "out" / "accuracy_loop.json"
WORK = Path("build") / "accuracy"


def main() -> int:
    """Play what is missing, write the figures and draw them."""
    given = _parse()
    digest = prepare(given.work / "store", given.backbone, given.input_size, given.weights)
    console = Console()
    cells = load_cells(find_data())
    embed_cells(cells, given.work, digest, given.threads, lambda n: console.print(f"\rembed {n:.0%}", end=""))
    wanted = [(seed, number) for seed in given.seeds for number in range(len(STRATEGIES))]
    folder = given.work / "loop" / digest
    folder.mkdir(parents=True, exist_ok=True)
    missing = [one for one in wanted if not _path(folder, *one).is_file()]
    with ProcessPoolExecutor(given.jobs, mp_context=get_context("spawn")) as pool:
        jobs = [pool.submit(_play, given.work, digest, folder, *one) for one in missing]
        for job in track(as_completed(jobs), total=len(jobs), description="courses", console=console):
            job.result()
    curves = {
        strategy.name: [json.loads(_path(folder, seed, n).read_text()) for seed in given.seeds]
        for n, strategy in enumerate(STRATEGIES)
    }
    summary = {name: sum_up(courses) for name, courses in curves.items()}
    halves = {n: compare_halves(courses, curves[RANDOM]) for n, courses in curves.items() if n != RANDOM}
    told = {"machine": describe_machine(), "seeds": given.seeds, "summary": summary}
    write_json(given.out, told | {"against_twice_the_random_labels": halves, "courses": curves})
    draw(summary, given.picture, len(given.seeds))
    print_points(console, summary, halves)
    return 0


def print_points(
    console: Console, summary: dict[str, list[dict[str, Any]]], halves: dict[str, list[dict[str, Any]]]
) -> None:
    """What the figure shows, and who does with half the labels what random labelling does."""
    for name, points in summary.items():
        console.print(name, *(f"{p['labels']}: {100 * p['mean']:.1f}" for p in points), sep="  ")
    console.print("Points above random labelling with twice the labels, with standard errors:")
    for name, points in halves.items():
        gains = (f"{p['labels']}: {100 * p['gain']:+.1f} ({100 * p['error']:.1f})" for p in points)
        console.print(name, *gains, sep="  ")


def _parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m bench.accuracy_loop", description=__doc__)
    parser.add_argument("--seeds", nargs="+", type=int, default=list(range(10)))
    parser.add_argument("--backbone", default="efficientnet-lite0")
    parser.add_argument("--input-size", type=int, default=260, help="side of its images, pixels")
    parser.add_argument("--weights", help="a file, or `random`; ImageNet's by default")
    parser.add_argument("--threads", type=int, default=os.cpu_count() or 1, help="that embed")
    parser.add_argument("--jobs", type=int, default=1, help="courses at a time")
    parser.add_argument("--work", type=Path, default=WORK)
    parser.add_argument("--out", type=Path, default=OUT)
    parser.add_argument("--picture", type=Path, default=Path("docs") / "accuracy.png")
    return parser.parse_args()


def _path(folder: Path, seed: int, number: int) -> Path:
    return folder / f"{number}-{seed}.json"


def _play(work: Path, digest: str, folder: Path, seed: int, number: int) -> None:
    cells = load_cells(find_data())
    embeddings = embed_cells(cells, work, digest, 1, lambda _: None)
    world = World(embeddings, number_labels(cells), draw_split(cells, seed), seed)
    points = Course(world, STRATEGIES[number]).play()
    aside = _path(folder, seed, number).with_suffix(".new")
    aside.write_text(json.dumps(points), encoding="utf-8")
    aside.rename(_path(folder, seed, number))


def sum_up(courses: list[list[list[float]]]) -> list[dict[str, Any]]:
    """By labels spent, as far as every seed got: mean accuracy, and one standard error either way."""
    points = []
    for i in range(min(len(course) for course in courses)):
        values = np.array([course[i][1] for course in courses])
        error = float(values.std(ddof=1) / np.sqrt(len(values))) if len(values) > 1 else 0.0
        points.append({"labels": int(courses[0][i][0]), "mean": float(values.mean()), "error": error})
    return points


def compare_halves(courses: list[list[list[float]]], random: list[list[list[float]]]) -> list[dict[str, Any]]:
    """Accuracy less that of random labelling with twice the labels, paired by seed, with standard errors."""
    points = []
    longest = min(min(map(len, courses)) - 1, (min(map(len, random)) - 1) // 2)
    for i in range(1, longest + 1):
        ours = zip(courses, random, strict=True)
        gains = np.array([course[i][1] - other[2 * i][1] for course, other in ours])
        error = float(gains.std(ddof=1) / np.sqrt(len(gains))) if len(gains) > 1 else 0.0
        points.append({"labels": i * ROUND, "gain": float(gains.mean()), "error": error})
    return points


def draw(summary: dict[str, list[dict[str, Any]]], picture: Path, seeds: int) -> None:
    """Curves with bands of one standard error."""
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot as plt

    figure, axes = plt.subplots(figsize=(8, 4.8), dpi=120)
    for name, points in summary.items():
        labels = [p["labels"] for p in points]
        means = np.array([100 * p["mean"] for p in points])
        errors = np.array([100 * p["error"] for p in points])
        (line,) = axes.plot(labels, means, marker="o", markersize=3, label=name)
        axes.fill_between(labels, means - errors, means + errors, alpha=0.15, color=line.get_color())
    axes.set_xlabel("labels spent beyond the base folder of 200 cells")
    axes.set_ylabel("accuracy on the test quarter, %")
    axes.set_title(f"Heads on the frozen backbone, solar cells; {seeds} seeds, bands of one standard error")
    axes.grid(alpha=0.3)
    axes.legend(fontsize=8)
    figure.tight_layout()
    figure.savefig(picture)
    plt.close(figure)


if __name__ == "__main__":
    sys.exit(main())

"""Steps of a full run: what the feed costs, against the same steps on one batch that lies in memory.

And what folding the frozen norms saves, against slopes through the net as it is.
"""

import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np

BACKBONE = "efficientnet-lite0"
CELLS = 320
STEPS = 8  # of a turn
TURNS = 5
THREADS = 2
TARGET_INPUT_WAIT = 0.05  # of the step's time


def measure_full(cells: int = CELLS, steps: int = STEPS, turns: int = TURNS) -> dict[str, Any]:
    """Images a second of both sides, the share of a step that waits for images, decoding, memory.

    In a process of its own: TensorFlow takes threads and memory for good.
    """
    words = ["--cells", cells, "--steps", steps, "--turns", turns]
    command = [sys.executable, "-m", "bench.bench_full", *map(str, words)]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
    said: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return said


def run_steps(cells: int, steps: int, turns: int) -> dict[str, Any]:
    """All layers of Lite0 learn solar cells as recipe `surfaces` says; the two sides take turns."""
    from backtalk.learn.backbones import load_model, prepare_backbone
    from backtalk.learn.learner import Learner
    from backtalk.recipes import load_recipe

    recipe = load_recipe("surfaces", None)
    with tempfile.TemporaryDirectory(prefix="backtalk-bench-") as folder:
        store = Path(folder) / "store"
        prepared = prepare_backbone(BACKBONE, store, None, None)
        model, described = load_model(store / "_backbones" / prepared.digest)
        feed, decoded_per_second = _make_feed(Path(folder), recipe, cells, described.input_size)
        batches = _endless(feed)
        still = next(batches)
        measured = _compare_feeds(Learner(model, 2, recipe), batches, still, steps, turns)
        return {
            "backbone": described.name,
            "input_size": described.input_size,
            "batch_size": recipe.batch_size,
            **measured,
            "decoded_per_second": decoded_per_second,
            "folded_to_plain_seconds": _compare_norms(model, still[0], turns),
        }


def _make_feed(folder: Path, recipe: Any, cells: int, size: int) -> tuple[Any, float]:
    """A feed of so many cells, and how many of them were decoded a second."""
    from backtalk.learn.feed import Feed, Rows

    pixels, labels, seconds = _map_cells(folder, cells, size)
    targets = np.eye(2, dtype=np.float32)[labels]
    known, even = np.zeros(len(labels), np.bool_), np.ones(len(labels), np.float32)
    rows = Rows(np.arange(len(labels), dtype=np.int64), targets, even, known)
    return Feed(pixels, rows, recipe, seed=0, threads=THREADS), round(len(labels) / seconds, 1)


def _compare_feeds(
    learner: Any, batches: Iterator[Any], still: Any, steps: int, turns: int
) -> dict[str, Any]:
    """Steps on what the feed brings, in turn with steps on the one batch `still`; memory of both."""
    from backtalk.learn.memory import read_memory_mb

    for _ in range(2):  # traced and warm
        learner.learn(*still, 0.0)
    images = len(still[0]) * steps
    fed, bare, waits = [], [], []
    for _ in range(turns):
        seconds, waited = _take_steps(learner, batches, steps)
        fed.append(images / seconds)
        waits.append(waited / seconds)
        seconds, _ = _take_steps(learner, _repeat(still), steps)
        bare.append(images / seconds)
    return {
        "images_per_second": round(median(fed), 1),
        "without_feed_per_second": round(median(bare), 1),
        "to_without_feed": round(median(a / b for a, b in zip(fed, bare, strict=True)), 3),
        "input_wait": round(median(waits), 4),
        "target_input_wait": TARGET_INPUT_WAIT,
        "met": median(waits) < TARGET_INPUT_WAIT,
        "peak_memory_mb": read_memory_mb(peak=True),
    }


def _compare_norms(model: Any, images: Any, turns: int) -> float:
    """The median, over turns, of the seconds of all slopes through folded norms, to those without."""
    import tensorflow as tf

    from backtalk.learn.folding import fold_norms

    values = [variable.value for variable in model.trainable_variables]

    def make(net: Any) -> Any:
        @tf.function
        def find_slopes() -> Any:
            with tf.GradientTape() as tape:
                loss = tf.reduce_mean(net(images, training=False))
            return tape.gradient(loss, values)

        find_slopes()  # traced
        return find_slopes

    sides = make(fold_norms(model)), make(model)
    ratios = []
    for _ in range(turns):
        folded, plain = (_time(side) for side in sides)
        ratios.append(folded / plain)
    return round(median(ratios), 3)


def _time(find_slopes: Any) -> float:
    began = time.monotonic()
    for _ in range(3):
        find_slopes()[-1].numpy()
    return time.monotonic() - began


def _map_cells(folder: Path, count: int, size: int) -> tuple[Any, Any, float]:
    """The pixels (N, S, S, 3) uint8 and labels (N,) of `count` cells, and the seconds that decoding took."""
    from backtalk.images import decode, pixels_digest
    from backtalk.learn.pixelmap import Source, map_pixels
    from backtalk.store import ImageStore
    from demo.cells import LABELS, find_data, load_cells

    images = ImageStore(folder / "images")
    cells = load_cells(find_data())[:: max(1, 2624 // count)][:count]
    sources = []
    for cell in cells:
        data = cell.read()
        sources.append(Source(images.put(pixels_digest(decode(data).pixels), data), 1))
    began = time.monotonic()
    mapped = map_pixels(folder, "0" * 64, size, sources, images, threads=THREADS, tell=lambda _fraction: None)
    seconds = time.monotonic() - began
    return mapped.open(), np.array([LABELS.index(cell.label) for cell in cells]), seconds


def _endless(feed: Any) -> Iterator[Any]:
    epoch = 0
    while True:
        yield from feed.epoch(epoch)
        epoch += 1


def _repeat(batch: Any) -> Iterator[Any]:
    while True:
        yield batch


def _take_steps(learner: Any, batches: Iterator[Any], steps: int) -> tuple[float, float]:
    """Seconds of all of it, and of those the ones that were spent waiting for images. Nothing is learned."""
    waited, began = 0.0, time.monotonic()
    for _ in range(steps):
        asked = time.monotonic()
        batch = next(batches)
        waited += time.monotonic() - asked
        learner.learn(*batch, 0.0)
    return time.monotonic() - began, waited


def main() -> None:
    import argparse

    parser = argparse.ArgumentParser(description=__doc__)
    for name in ("cells", "steps", "turns"):
        parser.add_argument(f"--{name}", type=int, required=True)
    print(json.dumps(run_steps(**vars(parser.parse_args()))))


if __name__ == "__main__":
    main()

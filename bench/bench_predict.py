"""Predictions over HTTP, each recorded before it is answered, against the bare work and against TensorFlow.

All sides take turns in one run, so that a busy neighbour slows all of them; the medians are compared.
"""

import statistics
import tempfile
import time
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from sqlalchemy import select

from backtalk.system import System
from backtalk.tables import Model, Version
from bench.installation import client_of, create_model, installed, list_cells, opened
from bench.load import Answer, Load, Target, percentile
from bench.pictures import HEIGHT, WIDTH, make_pictures, save_pictures
from bench.servers import measure_bare, tensorflow_server
from demo.client import Client

MODEL = "cells"
CLIENTS = 8
ROUNDS = 5
SECONDS = 4.0
WARM_S = 1.0  # of each load: connections, prepared statements
PICTURES = 7200  # about as many as are asked for in a run: each is new to the server
TARGETS = {"to_bare": 0.7, "to_tensorflow": 1.6}


@dataclass(frozen=True)
class Figures:
    """One load."""

    per_second: float
    p50_ms: float
    p99_ms: float
    failed: int


def measure_predict(rounds: int = ROUNDS, seconds: float = SECONDS) -> dict[str, Any]:
    """Rates and latencies of the three sides, their ratios, and ours once more while a head run trains."""
    cells = list_cells("mono")
    pictures = make_pictures(PICTURES)
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="backtalk-bench-")))
        up, _ = stack.enter_context(installed())
        client = stack.enter_context(client_of(up))
        create_model(up, MODEL, cells[:400])
        with opened(up) as system:
            backbone, saved_model = find_version(system)
        save_pictures(folder / "pictures.npz", pictures)
        tensorflow = stack.enter_context(tensorflow_server(saved_model, pictures[0], folder / "server.log"))
        ours = Target(up.address, f"/v1/models/{MODEL}:predict", client.key, pictures, CLIENTS)
        theirs = Target(tensorflow, "/predict", "none", pictures, CLIENTS)
        sides = _take_turns(ours, theirs, backbone, folder / "pictures.npz", rounds, seconds)
        training = load_while_training(ours, client)
    return {
        "picture": f"JPEG, {WIDTH} × {HEIGHT}",
        "clients": CLIENTS,
        **_compare(sides),
        "while_training": {
            **asdict(training),
            "to_idle": round(training.per_second / _median(sides["backtalk"]), 2),
        },
    }


def find_version(system: System, name: str = MODEL) -> tuple[Path, Path]:
    """The folders of the live version's backbone and of its SavedModel."""
    with system.db.reading() as session:
        model = session.scalars(select(Model).where(Model.name == name)).one()
        version = session.scalars(
            select(Version).where(Version.model_id == model.id, Version.number == model.live_version)
        ).one()
    return system.versions.backbone_dir(version.backbone_digest), system.versions.resolve(version.path)


def _take_turns(
    ours: Target, theirs: Target, backbone: Path, pictures: Path, rounds: int, seconds: float
) -> dict[str, list[Figures]]:
    sides: dict[str, list[Figures]] = {"backtalk": [], "bare": [], "tensorflow": []}
    measures: dict[str, Callable[[int], Figures]] = {
        "backtalk": lambda turn: load_for(turn_pictures(ours, turn, rounds), seconds),
        "bare": lambda _turn: Figures(measure_bare(backbone, pictures, seconds)["per_second"], 0, 0, 0),
        "tensorflow": lambda turn: load_for(turn_pictures(theirs, turn, rounds), seconds),
    }
    for turn in range(rounds):
        for side, measure in measures.items():
            sides[side].append(measure(turn))
    return sides


def turn_pictures(target: Target, turn: int, turns: int) -> Target:
    """The same target with this turn's own share of the pictures."""
    share = len(target.images) // (turns + 1)  # the last share is for the load while a run trains
    images = target.images[turn * share : (turn + 1) * share]
    return Target(target.address, target.path, target.key, images, target.clients)


def load_for(target: Target, seconds: float) -> Figures:
    """Load for so long, after a warm-up that does not count."""
    with Load(target) as load:
        began = time.monotonic() + WARM_S
        time.sleep(WARM_S + seconds)
        ended = time.monotonic()
    return summarise(load.answers, began, ended)


def load_while_training(target: Target, client: Client) -> Figures:
    """Load from the moment a head run is asked for until it has ended."""
    images = target.images[-len(target.images) // 6 :]
    with Load(Target(target.address, target.path, target.key, images, target.clients)) as load:
        began = time.monotonic()
        run = client.train(MODEL)["id"]
        while not client.run(run)["ended_at"]:
            time.sleep(0.2)
        ended = time.monotonic()
    return summarise(load.answers, began, ended)


def summarise(answers: list[Answer], began: float, ended: float) -> Figures:
    """Of the answers that ended between two moments of the monotonic clock."""
    inside = [answer for answer in answers if began < answer.at_s <= ended]
    took = [answer.took_s for answer in inside if answer.status == 200]
    return Figures(
        per_second=round(len(took) / (ended - began), 1),
        p50_ms=round(1000 * percentile(took, 0.5), 1),
        p99_ms=round(1000 * percentile(took, 0.99), 1),
        failed=sum(answer.status != 200 for answer in inside),
    )


def _median(figures: list[Figures]) -> float:
    return statistics.median(one.per_second for one in figures)


def _compare(sides: dict[str, list[Figures]]) -> dict[str, Any]:
    rates = {side: _median(figures) for side, figures in sides.items()}
    # Of each round by itself, then the median: a slow minute then touches both sides of one ratio.
    ratios = {
        f"to_{other}": round(
            statistics.median(
                one.per_second / two.per_second
                for one, two in zip(sides["backtalk"], sides[other], strict=True)
            ),
            2,
        )
        for other in ("bare", "tensorflow")
    }
    return {
        "per_second": {side: round(rate, 1) for side, rate in rates.items()},
        "p50_ms": {side: statistics.median(one.p50_ms for one in sides[side]) for side in _TIMED},
        "p99_ms": {side: statistics.median(one.p99_ms for one in sides[side]) for side in _TIMED},
        "failed": {side: sum(one.failed for one in sides[side]) for side in _TIMED},
        "ratio": ratios,
        "target": TARGETS,
        "met": all(ratios[name] >= target for name, target in TARGETS.items()),
    }


_TIMED = ("backtalk", "tensorflow")

"""Twenty changes of the live version under load: does any caller notice?"""

import time
from typing import Any
from uuid import UUID

from sqlalchemy import select

from backtalk.system import System
from backtalk.tables import Prediction
from bench.installation import client_of, create_model, installed, list_cells, opened, wait_for
from bench.load import Answer, Load, Target, percentile
from demo.client import Client

MODEL = "cells"
SWAPS = 20
CLIENTS = 8
STEADY_S = 15.0
BETWEEN_S = 1.0


def measure_swaps(swaps: int = SWAPS) -> dict[str, Any]:
    """Failed and mis-versioned answers during swaps, and p99 during swaps against p99 without any."""
    cells = list_cells("mono")
    with installed(BACKTALK_WARM_TRAINER="false") as (stack, _), client_of(stack) as client:
        create_model(stack, MODEL, cells[:200])
        _train_second(client)
        images = [cell.read() for cell in cells[200:264]]
        target = Target(stack.address, f"/v1/models/{MODEL}:predict", client.key, images, CLIENTS)
        others = (1, 2) if client.model(MODEL)["version"] == 2 else (2, 1)
        with Load(target) as steady:
            time.sleep(STEADY_S)
        with Load(target) as swapping:
            for number in range(swaps):
                _swap(client, to=others[number % 2])
        with opened(stack) as system:
            wrong = count_misversioned(system, swapping.answers)
    before, during = (_p99_ms(load.answers) for load in (steady, swapping))
    return {
        "swaps": swaps,
        "requests": len(swapping.answers),
        "failed": sum(answer.status != 200 for answer in swapping.answers),
        "misversioned": wrong,
        "versions_answered": sorted({a.version for a in swapping.answers if a.version}),
        "p99_steady_ms": before,
        "p99_swapping_ms": during,
        "p99_ratio": round(during / before, 2),
    }


def count_misversioned(system: System, answers: list[Answer]) -> int:
    """Answers whose prediction is recorded under another version than answered, or not at all."""
    answered = {UUID(a.prediction): a.version for a in answers if a.prediction}
    with system.db.reading() as session:
        rows = session.execute(select(Prediction.id, Prediction.version)).tuples()
        recorded = {key: version for key, version in rows if key in answered}
    return sum(recorded.get(key) != version for key, version in answered.items())


def _train_second(client: Client) -> None:
    """A second version: from the same samples, so the gate may well say that it cannot tell them apart."""
    run = client.train(MODEL)
    wait_for(lambda: client.run(run["id"])["version"] and client.run(run["id"])["ended_at"])


def _swap(client: Client, to: int) -> None:
    client.promote(MODEL, to)
    time.sleep(BETWEEN_S)


def _p99_ms(answers: list[Answer]) -> float:
    return round(1000 * percentile([answer.took_s for answer in answers], 0.99), 1)

"""Feedback to live: from the call that crosses the threshold to the first answer by the new version.

The samples beyond the 200 that the model is made from are put straight into Postgres: embeddings of real
polycrystalline cells by the same backbone, with noise, so that each is distinct. From the call on everything
is the real thing: relay, Celery, trainer, second process, judge, promotion, poll.
"""

import time
from datetime import datetime
from statistics import median
from typing import Any

from bench.filling import fill_model
from bench.installation import client_of, create_model, installed, list_cells, opened, wait_for
from demo.cells import Cell
from demo.client import Client, Json
from demo.stack import Stack

SIZES = (2_000, 10_000)
REPEATS = 3
TARGET_S = {"cold": 20.0, "warm": 10.0}
#: Time is measured here, not judgement: the noise in the samples must not keep versions from going live.
LENIENT = ("margin=0.5", "max_recall_loss=1", "max_brier_loss=2", "max_flip_rate=1", "max_rebreak_rate=1")
MOST_TRIES = 12
PARTS = ("notice", "read", "fit", "export", "verify", "judge", "promote", "swap")


def measure_loop(sizes: tuple[int, ...] = SIZES, repeats: int = REPEATS) -> dict[str, Any]:
    """Seconds by trainer (cold, warm) and number of samples; the baseline of `warm` is `cold`."""
    figures: dict[str, Any] = {}
    for trainer in ("cold", "warm"):
        with installed(BACKTALK_WARM_TRAINER=str(trainer == "warm")) as (stack, _):
            for size in sizes:
                figures[f"{trainer}, {size} samples"] = _measure(stack, trainer, size, repeats)
    for size in sizes:
        warm, cold = (figures[f"{trainer}, {size} samples"] for trainer in ("warm", "cold"))
        warm["ratio_to_cold"] = round(warm["seconds"] / cold["seconds"], 2)
    return figures


def _measure(stack: Stack, trainer: str, size: int, repeats: int) -> dict[str, Any]:
    name = f"cells-{size}"
    create_model(stack, name, list_cells("mono")[:200])
    poly = list_cells("poly")
    with opened(stack) as system:
        fill_model(system, name, poly[:1500], size)
    spare = iter(poly[1500:])
    with client_of(stack) as client:
        stack.run("policy", "set", name, "min_approved=1", *LENIENT)
        taken: list[dict[str, Any]] = []
        tries = 0
        while len(taken) < repeats:
            tries += 1
            one = _measure_once(client, name, next(spare))
            if one is not None:
                taken.append(one)
                stack.run("policy", "set", name, "hold=false")  # a rollback by a person holds promotions back
            elif tries == MOST_TRIES:
                raise RuntimeError(f"{tries} runs, and {len(taken)} of them promoted")
    parts = {part: round(median(one["parts"][part] for one in taken), 2) for part in PARTS}
    seconds = round(median(one["seconds"] for one in taken), 2)
    target_s = TARGET_S[trainer]
    return {
        "seconds": seconds,
        "all": [round(one["seconds"], 2) for one in taken],
        "tries": tries,
        "parts": parts,
        "target_s": target_s,
        "met": seconds <= target_s,
    }


def _measure_once(client: Client, name: str, cell: Cell) -> dict[str, Any] | None:
    """One correction, one run, one new version; then back to the first, so that the next may win as well.

    None where the gate did not promote the run: then there is no new version to wait for.
    """
    probe = cell.read()
    answer = client.predict(name, probe)
    other = "defective" if answer["label"] == "functional" else "functional"
    before = {run["id"] for run in client.runs(name)}
    called = time.time()
    client.correct(answer["id"], other, "bench")
    while client.predict(name, probe)["version"] == answer["version"]:
        if _is_refused(client, name, before):
            return None
        time.sleep(0.1)
    answered = time.time()
    run = client.run(next(run["id"] for run in client.runs(name) if run["id"] not in before))
    client.rollback(name)
    wait_for(lambda: client.predict(name, probe)["version"] == answer["version"], pause_s=0.1)
    return {"seconds": answered - called, "parts": _split(run, called, answered)}


def _is_refused(client: Client, name: str, before: set[str]) -> bool:
    newest = next(client.runs(name), None)
    if newest is None or newest["id"] in before:
        return False
    if newest["state"] == "failed":
        raise RuntimeError(f"a run failed: {newest['reason']}")
    return newest["state"] in ("rejected", "inconclusive")


def _split(run: Json, called: float, answered: float) -> dict[str, float]:
    """The run's own parts, what came before it (notice) and after it (swap)."""
    parts = {part: float(run["progress"]["seconds"].get(part, 0.0)) for part in PARTS}
    parts["notice"] = datetime.fromisoformat(run["started_at"]).timestamp() - called
    parts["swap"] = answered - datetime.fromisoformat(run["ended_at"]).timestamp()
    return parts

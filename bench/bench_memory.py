"""Memory of each process of the idle one-machine stack, and the time until it is ready."""

import time
from statistics import median
from typing import Any

import psutil  # type: ignore[import-untyped]

from bench.installation import client_of, create_model, installed, list_cells, wait_for
from demo.client import Client
from demo.stack import Stack

TARGETS_MB = {"api": 200.0, "total": 1800.0}
SETTLE_S = 8.0  # the warm trainer imports TensorFlow meanwhile
STARTS = 3
#: What a process is, by what its command line says; the first that fits.
ROLES = (
    ("backtalk.learn.trainer", "trainer (warm)"),
    ("gunicorn", "api"),
    ("workers.relay", "relay"),
    ("beat", "beat"),
    ("training-head", "training worker (head)"),
    ("training-full", "training worker (full)"),
    ("celery", "events worker"),
    ("redis", "redis"),
    ("valkey", "redis"),
    ("postgres", "postgres"),
    ("backtalk.cli", "up"),
)


def measure_memory() -> dict[str, Any]:
    """Proportional set size (shared pages divided among those who share them) and resident size, in MB."""
    ready_s = [_time_start() for _ in range(STARTS - 1)]
    with installed() as (stack, seconds), client_of(stack) as client:
        cells = list_cells("mono")
        create_model(stack, "cells", cells[:60])
        for cell in cells[60:100]:
            client.predict("cells", cell.read())
        _warm_up(client)
        time.sleep(SETTLE_S)
        roles = read_roles(stack)
    total = round(sum(role["pss_mb"] for role in roles.values()), 1)
    return {
        "ready_s": round(median([*ready_s, seconds]), 2),
        "processes": roles,
        "total_pss_mb": total,
        "api_pss_mb": roles["api"]["pss_mb"],
        "met": roles["api"]["pss_mb"] <= TARGETS_MB["api"] and total <= TARGETS_MB["total"],
    }


def read_roles(stack: Stack) -> dict[str, dict[str, float]]:
    """Sizes by role; processes of one role are added up."""
    up = psutil.Process(stack.pid)
    sizes: dict[str, dict[str, float]] = {}
    for process in (up, *up.children(recursive=True)):
        command = " ".join(process.cmdline())
        role = next((name for word, name in ROLES if word in command), command[:40])
        memory = process.memory_full_info()
        row = sizes.setdefault(role, {"processes": 0, "pss_mb": 0.0, "rss_mb": 0.0})
        row["processes"] += 1
        row["pss_mb"] = round(row["pss_mb"] + memory.pss / 2**20, 1)
        row["rss_mb"] = round(row["rss_mb"] + memory.rss / 2**20, 1)
    return sizes


def _warm_up(client: Client) -> None:
    """One run: after it the next trainer waits with TensorFlow and the backbone loaded."""
    run = client.train("cells")
    wait_for(lambda: client.run(run["id"])["ended_at"])


def _time_start() -> float:
    with installed() as (_, seconds):
        return seconds

"""Milliseconds of the server for what `page_requests` asks, one request at a time."""

import time
from collections.abc import Iterator
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np

from bench.page_requests import Ask

REPEATS = 15
TARGET_MS = 150.0


def time_request(ask: Ask, postgres: int, repeats: int = REPEATS) -> dict[str, Any]:
    """Median and 95th percentile, and of them what processors worked: `postgres` is the server's process."""
    took, worked = [], []
    for _ in range(repeats):
        if ask.before is not None:
            ask.before()
        began, before = time.perf_counter(), _read_processor_ms(postgres)
        answered = ask.call()
        took.append(1000 * (time.perf_counter() - began))
        worked.append(_read_processor_ms(postgres) - before)
        if answered.status_code >= 400:
            raise RuntimeError(f"the server answered {answered.status_code}: {answered.text[:300]}")
    middle = float(median(took))
    return {
        "median_ms": round(middle, 1),
        "p95_ms": round(float(np.percentile(took, 95)), 1),
        "processor_ms": round(median(worked), 1),
        "met": middle < TARGET_MS,
    }


def _read_processor_ms(postgres: int) -> float:
    """Of this thread and of all that Postgres runs; a parallel worker that has ended is in no sum."""
    served = sum(_read_scheduled_ns(child) for child in _list_children(postgres))
    return 1000 * time.thread_time() + served / 1e6


def _list_children(process: int) -> Iterator[int]:
    yield from map(int, Path(f"/proc/{process}/task/{process}/children").read_text().split())


def _read_scheduled_ns(process: int) -> int:
    try:
        return int(Path(f"/proc/{process}/schedstat").read_text().split()[0])
    except FileNotFoundError:  # ended meanwhile
        return 0

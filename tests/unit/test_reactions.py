"""The table of the loop is whole: every event leads to a registered task, and is emitted somewhere."""

import ast
from dataclasses import fields
from pathlib import Path

import pytest

from backtalk import events
from backtalk.reactions import ARGUMENTS, REACTIONS

ROOT = Path(__file__).parents[2]
EVENTS = sorted(events.Event.__subclasses__(), key=lambda event: event.__name__)


@pytest.mark.parametrize("event", EVENTS)
def test_every_event_has_a_reaction(event: type[events.Event]) -> None:
    assert event in REACTIONS


@pytest.mark.parametrize("event", EVENTS)
def test_every_event_carries_what_its_task_takes(event: type[events.Event]) -> None:
    assert ARGUMENTS[REACTIONS[event]] in {field.name for field in fields(event)}


def test_every_reaction_is_a_registered_task() -> None:
    from workers.app import app

    app.loader.import_default_modules()
    assert set(REACTIONS.values()) <= set(app.tasks)
    assert set(ARGUMENTS) == set(REACTIONS.values())


def test_every_tick_of_beat_is_a_registered_task() -> None:
    from workers.app import app

    app.loader.import_default_modules()
    ticks = app.conf.beat_schedule.values()
    assert {tick["task"] for tick in ticks} <= set(app.tasks)
    assert all(set(tick["options"]) == {"queue"} for tick in ticks)  # no date that a clock could miss
    queues = {tick["task"]: tick["options"]["queue"] for tick in ticks}
    assert queues.pop("review.check_labels") == "training-head"  # what it needs is installed there
    assert set(queues.values()) == {"ticks"}


def test_every_event_is_emitted_somewhere() -> None:
    called = set()
    for path in (ROOT / "backtalk").rglob("*.py"):
        if path.name in {"events.py", "reactions.py"}:
            continue
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Name | ast.Attribute) and isinstance(node.ctx, ast.Load):
                called.add(node.id if isinstance(node, ast.Name) else node.attr)
    assert {event.__name__ for event in EVENTS} <= called


def test_tasks_are_ten_lines_or_fewer() -> None:
    tree = ast.parse((ROOT / "workers" / "tasks.py").read_text(encoding="utf-8"))
    lengths = {
        node.name: (node.end_lineno or 0) - node.lineno + 1
        for node in tree.body
        if isinstance(node, ast.FunctionDef)
    }
    assert lengths
    assert max(lengths.values()) <= 10, lengths

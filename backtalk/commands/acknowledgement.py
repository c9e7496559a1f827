"""Waits until the API processes serve what was just made live."""

import time
from enum import Enum
from typing import TYPE_CHECKING

import click

from backtalk.home import find_stack

if TYPE_CHECKING:
    from backtalk.system import System

WAIT_S = 10.0
FRESH_S = 10  # replicas that said nothing for so long do not count (DESIGN section 9)


class Acknowledgement(Enum):
    """What the replicas said."""

    ALL = "all"
    MISSING = "missing"
    NOBODY = "nobody"  # no API process runs


_COUNTS = """
SELECT count(DISTINCT process) AS fresh,
       count(DISTINCT process) FILTER (WHERE model_id = :model AND generation >= :generation) AS there
FROM replicas WHERE seen_at > now() - make_interval(secs => :fresh_s)
"""


def await_replicas(
    system: "System", model_name: str, generation: int, *, wait_s: float = WAIT_S
) -> Acknowledgement:
    """Wait until every fresh replica has `generation` of the model in service, for `wait_s` at most."""
    expects_one = find_stack(system.settings.home.absolute()) is not None
    deadline = time.monotonic() + wait_s
    while True:
        fresh, there = _count(system, model_name, generation)
        if fresh == there > 0:
            return Acknowledgement.ALL
        if fresh == 0 and not expects_one:
            return Acknowledgement.NOBODY
        if time.monotonic() > deadline:
            return Acknowledgement.MISSING
        time.sleep(0.1)


def report_replicas(system: "System", model_name: str, generation: int) -> None:
    """Wait, and say on stderr if not all came."""
    said = await_replicas(system, model_name, generation)
    if said is Acknowledgement.MISSING:
        click.echo(
            f"Warning: not every API process serves generation {generation} of {model_name} after "
            f"{WAIT_S:.0f} s; `backtalk status {model_name}` shows which.",
            err=True,
        )
    elif said is Acknowledgement.NOBODY:
        click.echo("No API process is running; the next one to start serves it.", err=True)


def _count(system: "System", model_name: str, generation: int) -> tuple[int, int]:
    from sqlalchemy import text

    from backtalk.catalogue import get_model

    with system.db.reading() as session:
        model = get_model(session, model_name)
        values = {"model": model.id, "generation": generation, "fresh_s": FRESH_S}
        row = session.execute(text(_COUNTS), values).one()
        return int(row.fresh), int(row.there)

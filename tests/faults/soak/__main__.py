"""A seeded random soak: a whole stack under load and faults, and the invariants at quiet points.

    python -m tests.faults.soak --minutes 10 [--seed 7] [--out build/soak.json]

The seed decides what is drawn, not what the threads and the kernel make of it: a second run with the same
seed is a similar one. Status 1 where an invariant is broken, or a careful client was never answered.
"""

import argparse
import json
import secrets
import shutil
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

from rich.console import Console
from sqlalchemy.exc import SQLAlchemyError

from backtalk.states import RunState
from backtalk.trainers import Trainer
from tests.faults.grounds import Grounds
from tests.faults.lessons import add_candidate
from tests.faults.rig import Rig
from tests.faults.servers import Servers
from tests.faults.soak.people import TIMEOUT_S, Crowd, crowd_of
from tests.faults.soak.summary import Found, Line, Log, show, summarise
from tests.faults.soak.weather import PARTS, Weather

MEMBERS = 4
QUIET_EVERY_S = 120.0
SETTLE_S = 240.0
SETTINGS = {"lease_s": "5", "ring_again_s": "2", "max_attempts": "8", "stuck_s": "60"}


def soak(rig: Rig, seconds: float, seed: int, console: Console) -> Log:
    """Load and faults for so long, then quiet; `rig` is on the ground of `digits`, with no process."""
    log, began = Log(seed, seconds), time.monotonic()
    line, weather = Line(console, rig, log), Weather(rig, seed)
    for number in (2, 3):  # of the candidates trained meanwhile the gate may let none through
        add_candidate(rig.system, number, files_of=1, state=RunState.PASSED)
    rig.start_all(*PARTS, database_url=rig.proxy_url("postgres"), redis_url=rig.proxy_url("redis"))
    with crowd_of(rig, seed, MEMBERS) as crowd, line.progress:
        until = time.monotonic() + seconds
        while (left := until - time.monotonic()) > 0:
            crowd.go_on()
            for kind in strike_until(time.monotonic() + min(left, QUIET_EVERY_S), rig, weather, log):
                line.tell(kind, seconds - (until - time.monotonic()))
            line.tell("coming to rest", seconds - (until - time.monotonic()))
            log.checks.append(come_to_rest(rig, crowd, weather, log))
            line.say("all holds" if log.is_sound else f"BROKEN: {log.checks[-1]}")
    log.failures = [repr(error)[:300] for error in crowd.failed]
    log.seconds = time.monotonic() - began
    return log


def strike_until(deadline: float, rig: Rig, weather: Weather, log: Log) -> Iterator[str]:
    """The kind of each fault, when it is over."""
    while time.monotonic() < deadline:
        next_at = min(time.monotonic() + weather.pause_s(), deadline)
        while time.monotonic() < next_at:
            revive(rig, log)
            time.sleep(0.1)
        kind = weather.strike()
        log.faults[kind] += 1
        yield kind


def come_to_rest(rig: Rig, crowd: Crowd, weather: Weather, log: Log) -> Found:
    """No load, no faults, nothing under way; then what the invariants say."""
    weather.clear()
    crowd.hold()
    deadline = time.monotonic() + SETTLE_S
    while not (crowd.is_idle and is_at_rest(rig)):
        revive(rig, log)
        if time.monotonic() > deadline:
            return {"I7": [f"not at rest in {SETTLE_S:.0f} s"]} | run_checks(rig, "I1", "I3", "I5", "I8")
        time.sleep(0.2)
    return run_checks(rig)


def is_at_rest(rig: Rig) -> bool:
    try:
        return rig.is_ready() and rig._is_quiet()
    except SQLAlchemyError:  # a connection that did not survive the last fault
        return False


def run_checks(rig: Rig, *names: str) -> Found:
    """All invariants that were looked at, with what is broken."""
    kinds = {operation.kind for operation in rig.history}
    broken = rig.check(*names, deadlines_s=dict.fromkeys(kinds, TIMEOUT_S + 5))
    looked_at = names or tuple(f"I{number}" for number in range(1, 11))
    return {name: broken.get(name, []) for name in looked_at}


def revive(rig: Rig, log: Log) -> None:
    log.revived.update(label for label, part in rig.parts.items() if not part.alive)
    rig.revive()


def main(words: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="soak", description=__doc__.splitlines()[0])
    parser.add_argument("--minutes", type=float, default=10.0)
    parser.add_argument("--seed", type=int, default=None)
    parser.add_argument("--out", type=Path, default=Path("build/soak.json"))
    given = parser.parse_args(words)
    console = Console()
    seed = secrets.randbelow(10**6) if given.seed is None else given.seed
    console.print(f"seed {seed}: make soak MINUTES={given.minutes:g} SEED={seed}", highlight=False)
    folder = Path(tempfile.mkdtemp(prefix="bt-soak-"))
    servers = Servers(folder)
    request = SimpleNamespace(node=SimpleNamespace(user_properties=[]))
    rig = Rig(
        Grounds(servers, folder / "templates", lambda: make_backbone(folder)),
        servers,
        make_home(folder),
        request,
    )
    try:
        rig.use("digits", **SETTINGS)
        log = soak(rig, given.minutes * 60, seed, console)
        summary = summarise(log, rig)
    finally:
        rig.close()
        servers.close()
        shutil.rmtree(folder, ignore_errors=True)
    given.out.parent.mkdir(parents=True, exist_ok=True)
    given.out.write_text(json.dumps(summary, indent=1) + "\n")
    show(console, summary)
    return 0 if log.is_sound else 1


def make_home(folder: Path) -> Path:
    home = folder / "home"
    home.mkdir()
    return home


def make_backbone(folder: Path) -> Path:
    trainer = Trainer.start()
    try:
        made = trainer.call({"do": "prepare_backbone", "name": "tiny", "store": str(folder / "tiny")})
    finally:
        trainer.close()
    return folder / "tiny" / "_backbones" / str(made["digest"])


if __name__ == "__main__":
    sys.exit(main())

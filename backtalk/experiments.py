"""Tells MLflow of runs that have ended, and which version is the champion. Nothing waits for it.

What MLflow was not told, since it was away or switched off, it is told at a later tick.
"""

import fcntl
import json
import logging
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from importlib.util import find_spec
from pathlib import Path
from time import monotonic
from typing import Any
from uuid import UUID

from sqlalchemy import select, update
from sqlalchemy.orm import Session

from backtalk.children import stop_child
from backtalk.experimentfacts import FIRST, describe_aliases, describe_first, describe_run
from backtalk.system import System
from backtalk.tables import Model, Run

log = logging.getLogger(__name__)

AT_ONCE = 10  # runs of one tick
TIMEOUT_S = 90.0
#: After a failure nothing is tried for so long, so that a server that is away costs next to nothing.
PAUSE_S = 300.0
_ENVIRONMENT = {
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "10",
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "1",
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "GIT_PYTHON_REFRESH": "quiet",
}


class Experiments:
    """One process's view of the tracking server: it remembers when that was away last."""

    def __init__(self, system: System) -> None:
        self._system = system
        self._pause_until = 0.0
        self._resting: dict[str, float] = {}  # models that MLflow refused, and until when they wait

    def tell(self) -> int:
        """Write what is due; how many runs and models were written. Never raises for what MLflow does."""
        if not self._system.settings.mlflow or monotonic() < self._pause_until:
            return 0
        if find_spec("mlflow") is None:
            log.error("BACKTALK_MLFLOW is set, and mlflow is not installed: pip install 'backtalk[mlflow]'")
            self._pause_until = monotonic() + PAUSE_S
            return 0
        with _alone(_local_folder(self._system) / ".lock") as is_ours:
            if not is_ours:
                return 0  # another worker of this machine is at it
            with self._system.db.reading() as session:
                wanted = self._gather(session)
            return self._write(wanted) if wanted["runs"] or wanted["models"] else 0

    def _gather(self, session: Session) -> dict[str, Any]:
        now = monotonic()
        resting = select(Model.id).where(
            Model.name.in_([name for name, until in self._resting.items() if now < until])
        )
        runs = session.scalars(
            select(Run)
            .where(Run.ended_at.is_not(None), Run.mlflow_run_id.is_(None), Run.model_id.not_in(resting))
            .order_by(Run.ended_at)
            .limit(AT_ONCE)
        ).all()
        touched = {run.model_id for run in runs}
        models = session.scalars(
            select(Model).where(
                Model.live_version.is_not(None),
                Model.id.not_in(resting),
                Model.tracked_generation.is_distinct_from(Model.generation) | Model.id.in_(touched),
            )
        ).all()
        ended = [describe_run(session, self._system, run) for run in runs]
        firsts = [describe_first(session, self._system, m) for m in models if m.tracked_generation is None]
        return {
            "tracking_uri": find_tracking_uri(self._system),
            "artifacts": None if _find_server() else str(_local_folder(self._system)),
            "runs": [asdict(told) for told in [*firsts, *ended]],
            "models": [describe_aliases(session, self._system, model) for model in models],
        }

    def _write(self, wanted: dict[str, Any]) -> int:
        answers = _run_child(wanted)
        written = [answer for answer in answers if "refused" not in answer]
        with self._system.db.transaction() as session:
            for answer in written:
                _note(session, answer)
        reasons = {answer["refused"]: answer["reason"] for answer in answers if "refused" in answer}
        for model, reason in reasons.items():
            log.warning("%s: MLflow refuses what it is told, tried again later: %s", model, reason)
            self._resting[model] = monotonic() + PAUSE_S
        if len(answers) < len(wanted["runs"]) + len(wanted["models"]):
            self._pause_until = monotonic() + PAUSE_S
        return len(written)


@contextmanager
def _alone(path: Path) -> Iterator[bool]:
    """Whether no other process of this machine is at it. On two machines both may write the same once."""
    with path.open("a") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            yield False
        else:
            yield True


def _run_child(wanted: dict[str, Any]) -> list[dict[str, Any]]:
    """What was written, also where it broke off."""
    process = subprocess.Popen(
        [sys.executable, "-m", "backtalk.mlflow_log"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env=_ENVIRONMENT | os.environ | {"MLFLOW_TRACKING_URI": wanted["tracking_uri"]},
        start_new_session=True,
    )
    try:
        said, errors = process.communicate(json.dumps(wanted).encode(), TIMEOUT_S)
    except subprocess.TimeoutExpired:
        stop_child(process, timeout_s=1.0)
        said, errors = process.communicate()
        errors += f"\nMLflow did not answer within {TIMEOUT_S:.0f} s".encode()
    if process.returncode != 0:
        reason = errors.decode(errors="replace").strip().splitlines()[-1:]
        log.warning("MLflow was not told of everything; tried again later: %s", *reason or ["no reason"])
    return [json.loads(line) for line in said.splitlines()]


def _note(session: Session, answer: dict[str, Any]) -> None:
    """That something was written; what no run made has no row to note it in."""
    if "model" in answer:
        values = {"tracked_generation": answer["generation"]}
        session.execute(update(Model).where(Model.name == answer["model"]).values(values))
    elif not answer["run"].startswith(FIRST):
        values = {"mlflow_run_id": answer["mlflow_run_id"]}
        session.execute(update(Run).where(Run.id == UUID(answer["run"])).values(values))


def find_tracking_uri(system: System) -> str:
    """What MLFLOW_TRACKING_URI says, else a file in the home: MLflow's own kind of local store."""
    return _find_server() or f"sqlite:///{_local_folder(system)}/mlflow.db"


def _find_server() -> str | None:
    """An empty word is none: so compose files and shells leave what is not set."""
    return os.environ.get("MLFLOW_TRACKING_URI") or None


def _local_folder(system: System) -> Path:
    folder = system.settings.home.absolute() / "mlflow"
    folder.mkdir(parents=True, exist_ok=True)
    return folder

"""What MLflow is told of a run: gathered from its rows, in MLflow's terms."""

from dataclasses import asdict, dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import func, select
from sqlalchemy.orm import Session

from backtalk import champions
from backtalk.interventions import PROMOTABLE
from backtalk.mlflow_log import CHALLENGER, CHAMPION
from backtalk.states import ACTIVE_RUN_STATES, VERDICT_RUN_STATES, RunState, VersionState
from backtalk.sums import KEPT_AFTER_PRUNING
from backtalk.system import System
from backtalk.tables import GateCheck, Model, Run, Snapshot, Version

FIRST = "create:"  # with the model's name, the key of version 1, which no run made
#: A version that is or was the champion goes along whole.
_WAS_LIVE = (VersionState.LIVE, VersionState.RETIRED)


@dataclass(frozen=True)
class Told:
    """One run as `backtalk.mlflow_log` takes it. `key` is the run's id, or `create:<model>`."""

    key: str
    model: str
    name: str
    status: str  # FINISHED, FAILED or KILLED, as MLflow has it
    started_ms: int
    ended_ms: int | None  # None while it goes on, when its version is live already
    version: int | None
    params: dict[str, Any]
    metrics: list[tuple[str, float, int]]  # name, value, step
    tags: dict[str, str]
    dataset: dict[str, Any] | None
    files: list[str]


def describe_run(session: Session, system: System, run: Run) -> Told:
    """A run that has ended, or one whose version a person made live before that."""
    model = session.get_one(Model, run.model_id)
    version = session.scalar(
        select(Version).where(Version.model_id == model.id, Version.number == (run.version or 0))
    )
    checks = _list_checks(session, run)
    params: dict[str, Any] = {"kind": run.kind, "seed": run.seed, "base_version": run.base_version}
    if run.recipe is not None:
        params |= _flatten("recipe", run.recipe)
    metrics = _read_checks(checks)
    if version is not None:
        params |= _describe_version(version)
        metrics += _read_metrics(version)
    if run.ended_at is None:  # told at its end, once: MLflow keeps each number with its time
        metrics = []
    tags = {
        "backtalk.state": run.state,
        "backtalk.trigger": run.trigger_key,
        "backtalk.requested_by": run.requested_by,
        "backtalk.reason": run.reason or "",
        "backtalk.verdict": run.verdict or "",
        "backtalk.snapshot": run.snapshot_digest or "",
        "backtalk.version": str(run.version or ""),
    } | {f"backtalk.gate.{c.check}": _say(c.passed) for c in checks}
    return Told(
        key=str(run.id),
        model=model.name,
        name=f"{run.kind} {run.version or ''}".strip(),
        status={RunState.FAILED: "FAILED", RunState.CANCELLED: "KILLED"}.get(RunState(run.state), "FINISHED"),
        started_ms=_to_ms(run.started_at or run.created_at),
        ended_ms=_to_ms(run.ended_at) if run.ended_at else None,
        version=version.number if version is not None and _is_registered(run, version) else None,
        params=params,
        metrics=metrics,
        tags=tags,
        dataset=_describe_dataset(session, model.id, run.snapshot_digest),
        files=_list_files(system, version),
    )


def _is_registered(run: Run, version: Version) -> bool:
    """One that was judged, or that a person may make live whatever became of its run."""
    return run.state in VERDICT_RUN_STATES or version.state in (VersionState.LIVE, *PROMOTABLE)


def describe_first(session: Session, system: System, model: Model) -> Told:
    """Version 1, which no run made."""
    version = session.scalars(select(Version).where(Version.model_id == model.id, Version.number == 1)).one()
    first = session.scalar(
        select(Snapshot.digest).where(Snapshot.model_id == model.id).order_by(Snapshot.id).limit(1)
    )
    made_ms = _to_ms(version.created_at)
    return Told(
        key=f"{FIRST}{model.name}",
        model=model.name,
        name="create 1",
        status="FINISHED",
        started_ms=made_ms,
        ended_ms=made_ms,
        version=1,
        params={"kind": "create"} | _describe_version(version),
        metrics=_read_metrics(version),
        tags={"backtalk.version": "1", "backtalk.snapshot": first or ""},
        dataset=_describe_dataset(session, model.id, first),
        files=_list_files(system, version),
    )


def _list_checks(session: Session, run: Run) -> list[GateCheck]:
    """Of the last round, and the artefact's."""
    last = select(func.max(GateCheck.round)).where(GateCheck.run_id == run.id).scalar_subquery()
    query = select(GateCheck).where(
        GateCheck.run_id == run.id, (GateCheck.round == last) | (GateCheck.round == 0)
    )
    return list(session.scalars(query.order_by(GateCheck.id)))


def _describe_version(version: Version) -> dict[str, Any]:
    return _flatten("chosen", version.metrics.get("chosen", {})) | {
        "parent": version.parent,
        "backbone_digest": version.backbone_digest,
        "artefact_digest": version.artefact_digest,
    }


def _read_checks(checks: list[GateCheck]) -> list[tuple[str, float, int]]:
    """Each number of each check, but those that it has not."""
    parts = ("value", "bound", "n", "fixed", "broken")
    found = [(f"gate.{check.check}.{part}", getattr(check, part), 0) for check in checks for part in parts]
    return [(name, float(value), step) for name, value, step in found if value is not None]


def _read_metrics(version: Version) -> list[tuple[str, float, int]]:
    """Numbers of the fit and of the check, and of a full run each epoch's."""
    found = [
        (f"{part}.{name}", float(value), 0)
        for part in ("validation", "verified")
        for name, value in version.metrics.get(part, {}).items()
        if isinstance(value, int | float)
    ]
    for epoch in version.metrics.get("tuning", {}).get("history", []):
        found += [
            (f"tuning.{name}", float(value), int(epoch["epoch"]))
            for name, value in epoch.items()
            if name != "epoch" and isinstance(value, int | float)
        ]
    return found


def _describe_dataset(session: Session, model_id: int, digest: str | None) -> dict[str, Any] | None:
    counts = session.scalar(
        select(Snapshot.counts).where(Snapshot.model_id == model_id, Snapshot.digest == (digest or ""))
    )
    return None if counts is None else {"digest": digest, "counts": counts}


def _list_files(system: System, version: Version | None) -> list[str]:
    """What goes along: all of a version that went live; of others what explains them."""
    if version is None:
        return []
    folder = champions.locate(system, version)
    if not folder.is_dir():
        return []
    if version.state in _WAS_LIVE:
        return [str(folder)]
    return [str(folder / name) for name in sorted(KEPT_AFTER_PRUNING)]


def describe_aliases(session: Session, system: System, model: Model) -> dict[str, Any]:
    """Which version each alias is to name, each with all that MLflow needs to know it by.

    The challenger is the newest version after the champion that a person could promote and no run works on.
    """
    busy = select(Run.version).where(
        Run.model_id == model.id, Run.state.in_(ACTIVE_RUN_STATES), Run.version.is_not(None)
    )
    newest = session.scalar(
        select(func.max(Version.number)).where(
            Version.model_id == model.id,
            Version.state.in_(PROMOTABLE),
            Version.pruned_at.is_(None),
            Version.number > (model.live_version or 0),
            Version.number.not_in(busy),
        )
    )
    numbers = {CHAMPION: model.live_version, CHALLENGER: newest}
    aliases = {alias: _find_told(session, system, model, number) for alias, number in numbers.items()}
    return {"name": model.name, "generation": model.generation, "aliases": aliases}


def _find_told(session: Session, system: System, model: Model, number: int | None) -> dict[str, Any] | None:
    if number is None:
        return None
    run = session.scalar(select(Run).where(Run.model_id == model.id, Run.version == number))
    return asdict(
        describe_first(session, system, model) if run is None else describe_run(session, system, run)
    )


def _flatten(prefix: str, values: dict[str, Any]) -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for name, value in values.items():
        key = f"{prefix}.{name}"
        flat |= _flatten(key, value) if isinstance(value, dict) else {key: value}
    return flat


def _say(passed: bool | None) -> str:
    return {True: "passed", False: "failed", None: "shown"}[passed]


def _to_ms(moment: datetime) -> int:
    return int(moment.timestamp() * 1000)

"""`status`, `verify` and `audit`: what is the case, whether it is as it should be, and who changed it."""

import json
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from backtalk.commands.frame import home_option, open_system
from backtalk.errors import InvalidInput

if TYPE_CHECKING:
    from sqlalchemy.orm import Session

    from backtalk.tables import Model, Run

_RUNS = 5


@click.command()
@click.argument("name")
@click.option("--json", "as_json", is_flag=True, help="For machines.")
@home_option
def status(name: str, as_json: bool, home: Path | None) -> None:
    """Live version, counts, last runs with their verdicts, and what each API process serves."""
    from backtalk import catalogue

    with open_system(home, "status") as system, system.db.reading() as session:
        gathered = _gather(session, catalogue.get_model(session, name))
    if as_json:
        click.echo(json.dumps(gathered, indent=1, default=str))
    else:
        _print_status(gathered)


@click.command()
@click.argument("name", required=False)
@click.option("--audit-head", metavar="SEQ:HASH", help="As an earlier verify showed it: must still be there.")
@click.option("--every-byte", is_flag=True, help="Read every image file, too.")
@home_option
def verify(name: str | None, audit_head: str | None, every_byte: bool, home: Path | None) -> None:
    """Prove the chains of ledger and audit log, the sums of every version, models.config, and that every
    image is there. Exit 1 if anything is off."""
    from backtalk import verification

    if name and audit_head:
        raise InvalidInput("The audit log is not of one model: leave out the name, or --audit-head.")
    with open_system(home, "verify") as system:
        findings = verification.verify(system, name, noted_head=audit_head, every_byte=every_byte)
    bad = [finding for finding in findings if finding.problem is not None]
    for finding in findings:
        holds = "ok " if finding.problem is None else "BAD"
        note = f" ({finding.note})" if finding.note else ""
        why = f": {finding.problem}" if finding.problem else ""
        click.echo(f"{holds} {finding.model} {finding.subject}{note}{why}")
    if bad:
        raise click.ClickException(f"{len(bad)} of {len(findings)} checks failed.")


@click.command()
@click.option("--model", help="Only what was done to this model.")
@click.option("--actor", help="Only what this one did: user:NAME, key:ID or cli.")
@click.option("--limit", type=click.IntRange(1, 10_000), default=50, show_default=True)
@click.option("--json", "as_json", is_flag=True, help="One JSON object a line, with the hashes.")
@home_option
def audit(model: str | None, actor: str | None, limit: int, as_json: bool, home: Path | None) -> None:
    """Who changed what, and when: the newest entries of the audit log."""
    from backtalk import audit as log

    with open_system(home, "audit") as system, system.db.reading() as session:
        entries = log.list_entries(session, model=model, actor=actor, limit=limit)
    for entry in entries:
        if as_json:
            names = ("seq", "at", "actor", "action", "subject", "detail", "previous_hash", "hash")
            click.echo(json.dumps({name: getattr(entry, name) for name in names}, default=str))
        else:
            said = " ".join(f"{key}={json.dumps(value)}" for key, value in sorted(entry.detail.items()))
            when = f"{entry.at:%Y-%m-%d %H:%M:%S}"
            click.echo(f"{entry.seq}\t{when}\t{entry.actor}\t{entry.action}\t{entry.subject}\t{said}")


def _gather(session: "Session", model: "Model") -> dict[str, Any]:
    from backtalk import catalogue, lineage, live_accuracy, reporters, triggers

    policy = triggers.get_policy(model)
    checks = catalogue.list_trigger_checks(session, model, limit=1).items
    return {
        "model": model.name,
        "labels": model.labels,
        "version": model.live_version,
        "generation": model.generation,
        "hold": model.hold,
        "min_approved": policy.min_approved,
        "consider_at": model.consider_at,
        "counts": asdict(catalogue.count_all(session, model)),
        "live_accuracy": [asdict(one) for one in live_accuracy.find_live_accuracy(session, model)],
        "runs": [_describe_run(run) for run in catalogue.list_runs(session, model, limit=_RUNS).items],
        "last_consideration": {"at": checks[0].at, "reason": checks[0].reason} if checks else None,
        "learned_from_withdrawn": sorted(lineage.find_tainted(session, model.id)),
        "doubtful_keys": [
            {"key": source.key, "app": source.app, "warnings": source.warnings}
            for source in reporters.list_sources(session, model)
            if source.warnings
        ],
        "replicas": _list_replicas(session, model.id),
    }


def _describe_run(run: "Run") -> dict[str, Any]:
    return {
        "id": str(run.id),
        "kind": run.kind,
        "state": run.state,
        "trigger": run.trigger_key,
        "version": run.version,
        "reason": run.reason,
        "progress": run.progress,
        "created_at": run.created_at,
        "ended_at": run.ended_at,
    }


def _list_replicas(session: "Session", model_id: int) -> list[dict[str, Any]]:
    from sqlalchemy import func, select

    from backtalk.commands.acknowledgement import FRESH_S
    from backtalk.tables import Replica

    fresh = Replica.seen_at > func.now() - func.make_interval(0, 0, 0, 0, 0, 0, FRESH_S)
    rows = session.scalars(select(Replica).where(Replica.model_id == model_id, fresh))
    return [
        {"process": r.process, "version": r.version, "generation": r.generation, "error": r.error}
        for r in rows
    ]


def _print_status(status: dict[str, Any]) -> None:
    counts = status["counts"]
    hold = ", on hold" if status["hold"] else ""
    name = click.style(status["model"], bold=True)
    click.echo(f"{name}: version {status['version']} is live{hold} (generation {status['generation']})")
    click.echo(f"Labels: {', '.join(status['labels'])}")
    click.echo(
        f"{counts['decided_new']} of {status['min_approved']} decided statements towards the next run; "
        f"{counts['open_items']} items wait for a reviewer; {counts['predictions_24h']} predictions in 24 h"
    )
    for measured in status["live_accuracy"][:_RUNS]:
        _print_accuracy(measured)
    if status["last_consideration"]:
        click.echo(f"Last considered: {status['last_consideration']['reason']}")
    if status["consider_at"]:
        click.echo(f"To be considered at: {status['consider_at']:%Y-%m-%d %H:%M:%S} UTC")
    if status["version"] in status["learned_from_withdrawn"]:
        click.echo(f"Version {status['version']} learned from samples that were withdrawn since")
    for source in status["doubtful_keys"]:
        said = " ".join(source["warnings"])
        click.echo(f"Doubtful: key {source['key']} ({source['app']}). {said}")
    for run in status["runs"] or [None]:
        _print_run(run)
    for replica in status["replicas"]:
        error = f": {replica['error']}" if replica["error"] else ""
        serves = f"serves version {replica['version']}, generation {replica['generation']}"
        click.echo(f"{replica['process']} {serves}{error}")


def _print_accuracy(measured: dict[str, Any]) -> None:
    if measured["share"] is None:
        said = "no audit is answered yet"
    else:
        share, low, high = (100 * measured[name] for name in ("share", "low", "high"))
        said = f"{share:.1f} % right ({low:.1f} to {high:.1f}) by {measured['answered']} audits"
    click.echo(f"Version {measured['version']} on live traffic: {said}, {measured['waiting']} wait")


def _print_run(run: dict[str, Any] | None) -> None:
    if run is None:
        click.echo("No run yet")
        return
    version = f" version {run['version']}" if run["version"] else ""
    click.echo(f"run {run['id']} {run['kind']} {run['state']}{version}")
    if run["reason"]:
        click.echo(f"    {run['reason']}")

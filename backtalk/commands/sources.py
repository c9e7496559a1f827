"""`reporters`, `reviewers` and `retract`: who said what, how well, and taking it back."""

import json
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

import click

from backtalk.callers import CLI
from backtalk.commands.frame import home_option, open_system
from backtalk.errors import InvalidInput
from backtalk.states import Withdrawn

if TYPE_CHECKING:
    from backtalk.reporters import Source
    from backtalk.retraction import Affected, Retracted
    from backtalk.reviewers import ReviewerRecord


@click.command()
@click.argument("name")
@click.option("--json", "as_json", is_flag=True, help="For machines.")
@home_option
def reporters(name: str, as_json: bool, home: Path | None) -> None:
    """What each key has said about a model and how it turned out, the most doubtful first."""
    from backtalk import catalogue
    from backtalk import reporters as found

    with open_system(home, "reporters") as system, system.db.reading() as session:
        sources = found.list_sources(session, catalogue.get_model(session, name))
    if as_json:
        shown = [asdict(source) | {"marked_share": source.marked_share} for source in sources]
        click.echo(json.dumps(shown, indent=1))
        return
    for source in sources:
        _print_source(source)
    if not sources:
        click.echo("Nobody has said anything yet.")


@click.command()
@click.argument("name")
@click.option("--json", "as_json", is_flag=True, help="For machines.")
@home_option
def reviewers(name: str, as_json: bool, home: Path | None) -> None:
    """How each reviewer of a model answers, by gold items (`gold_share` in the policy) and by agreement."""
    from backtalk import catalogue
    from backtalk import reviewers as found

    with open_system(home, "reviewers") as system, system.db.reading() as session:
        records = found.measure_reviewers(session, catalogue.get_model(session, name))
    if as_json:
        click.echo(json.dumps([asdict(record) for record in records], indent=1))
        return
    for record in records:
        click.echo(f"{record.actor}: {_say_record(record)}")
    if not records:
        click.echo("Nobody has reviewed anything yet.")


def _say_record(record: "ReviewerRecord") -> str:
    said = f"{record.rulings} answers"
    if record.gold_share is not None and record.gold_low is not None and record.gold_high is not None:
        low, high = 100 * record.gold_low, 100 * record.gold_high
        said += f"; right on {record.gold_right} of {record.gold} gold items"
        said += f" ({100 * record.gold_share:.0f} %, {low:.0f} to {high:.0f})"
    if record.shared:
        said += f"; agreed with the final label on {record.agreed} of {record.shared} that others saw, too"
    return said


@click.command()
@click.option("--correction", help="The id that the correction was answered with.")
@click.option("--reporter", help="All that this reporter said; with --model, about that model.")
@click.option("--key", help="All that came with this key, given whole or by its id.")
@click.option("--model", help="Only with --reporter.")
@home_option
def retract(
    correction: str | None, reporter: str | None, key: str | None, model: str | None, home: Path | None
) -> None:
    """Withdraw a correction, a reporter or a key; a run without it follows where it is needed."""
    given = {Withdrawn.CORRECTION: correction, Withdrawn.REPORTER: reporter, Withdrawn.KEY: key}
    named = [(what, subject) for what, subject in given.items() if subject]
    if len(named) != 1:
        raise InvalidInput("Name one thing to withdraw: --correction ID, --reporter NAME or --key ID.")
    ((what, subject),) = named
    from backtalk import identity, retraction

    if what is Withdrawn.KEY:
        subject = identity.read_id(subject)

    with open_system(home, "retract") as system, system.db.transaction() as session:
        made = retraction.retract(session, caller=CLI, what=what, subject=subject, model_name=model)
    _print_retracted(made)


def _print_source(source: "Source") -> None:
    click.echo(
        f"key {source.key} ({source.app}): {source.corrections} corrections, "
        f"{source.confirmations} confirmations by {source.reporters} reporters"
    )
    click.echo(
        f"    approved {source.approved}, by policy {source.approved_by_policy}, rejected {source.rejected}, "
        f"disputed {source.disputed}, pending {source.pending}, retracted {source.retracted}"
    )
    click.echo(
        f"    marked {source.marked} of {source.weighed}; wrong by people {source.contradicted_by_people} "
        f"of {source.answered_by_people}; in versions {_join(source.versions)}"
    )
    for warning in source.warnings:
        click.echo(f"    LOOK: {warning}")


def _print_retracted(made: "Retracted") -> None:
    click.echo(
        f"Withdrew {made.corrections} corrections, {made.confirmations} confirmations and "
        f"{made.samples} samples."
    )
    for affected in made.models:
        _print_affected(affected)
    if made.what is Withdrawn.KEY:
        click.echo(f"The key may still speak; `backtalk keys revoke {made.subject}` ends it.", err=True)


def _print_affected(affected: "Affected") -> None:
    click.echo(f"{affected.model}: versions that learned from it: {_join(affected.versions)}")
    for run in affected.ended_runs:
        click.echo(f"    run {run} rested on it and ended")
    if affected.run_due:
        click.echo(
            f"    version {affected.live_version} is live and learned from withdrawn samples: a run without "
            f"them follows; `backtalk status {affected.model}` shows it"
        )


def _join(numbers: list[int]) -> str:
    return ", ".join(map(str, numbers)) or "none"

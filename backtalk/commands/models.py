"""`models`, `policy`, `train`, `promote`, `rollback`: what is done to a model."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from backtalk.callers import CLI
from backtalk.commands.acknowledgement import report_replicas
from backtalk.commands.frame import home_option, open_system, parse_pairs, show_progress, write_value
from backtalk.states import RunKind

if TYPE_CHECKING:
    from backtalk.creation import Created
    from backtalk.interventions import Changed

LARGE_GROUP = 0.05  # of all images: above it the sides are drawn in lumps
_SHOWN = 20  # skipped files that are listed one by one


@click.group()
def models() -> None:
    """Models of this installation."""


@models.command("create")
@click.argument("name")
@click.option(
    "--from",
    "folder",
    required=True,
    type=click.Path(file_okay=False, path_type=Path),
    help="A folder with one folder of images per label.",
)
@click.option("--policy", "pairs", multiple=True, metavar="KEY=VALUE", help="May be given several times.")
@click.option("--backbone", default="efficientnet-lite0", show_default=True, help="See docs/recipes.md.")
@click.option("--input-size", type=int, help="Side of its images; the backbone's own if not given.")
@click.option("--weights", metavar="FILE", help="Its weights, or `random`; ImageNet's if not given.")
@home_option
def create_model(
    name: str,
    folder: Path,
    pairs: tuple[str, ...],
    backbone: str,
    input_size: int | None,
    weights: str | None,
    home: Path | None,
) -> None:
    """Make a model from images sorted into folders, and train version 1."""
    policy = parse_pairs(pairs)
    from backtalk import creation
    from backtalk.backboning import BackboneWish
    from backtalk.trainers import Trainers

    with open_system(home, f"models create {name}") as system:
        trainers = Trainers(warm=False)
        try:
            with show_progress() as report:
                created = creation.create_model(
                    system,
                    trainers,
                    name=name,
                    folder=folder,
                    backbone=BackboneWish(backbone, input_size, weights),
                    policy=policy,
                    report=report,
                )
        finally:
            trainers.close()
        _describe(created)
        report_replicas(system, name, generation=1)


@models.command("list")
@home_option
def list_models(home: Path | None) -> None:
    """Names, live versions and labels."""
    from backtalk import catalogue

    with open_system(home, "models list") as system, system.db.reading() as session:
        cursor: str | None = None
        while True:
            page = catalogue.list_models(session, cursor=cursor)
            for model in page.items:
                click.echo(f"{model.name}\tversion {model.live_version}\t{', '.join(model.labels)}")
            if (cursor := page.next) is None:
                return


@click.group()
def policy() -> None:
    """When a model trains, whom it believes, how strictly it judges."""


@policy.command("get")
@click.argument("name")
@home_option
def get_policy(name: str, home: Path | None) -> None:
    """Print the policy as key=value lines."""
    from backtalk import catalogue, triggers

    with open_system(home, "policy get") as system, system.db.reading() as session:
        shown = triggers.get_policy(catalogue.get_model(session, name))
    _print_policy(shown.model_dump(mode="json"))


@policy.command("set")
@click.argument("name")
@click.argument("pairs", nargs=-1, required=True, metavar="KEY=VALUE…")
@home_option
def set_policy(name: str, pairs: tuple[str, ...], home: Path | None) -> None:
    """Change some keys, such as `min_approved=20 nightly=03:30 hold=false`."""
    changes = parse_pairs(pairs)
    from backtalk import catalogue, triggers

    with open_system(home, "policy set") as system, system.db.transaction() as session:
        model = catalogue.get_model(session, name)
        changed = triggers.set_policy(session, model, changes, CLI).model_dump(mode="json")
    _print_policy({key: changed[key] for key in changes})


@click.command()
@click.argument("name")
@click.option("--kind", type=click.Choice([str(kind) for kind in RunKind]), default=str(RunKind.HEAD))
@click.option("--recipe", help="Of a full run; `default` if not given. See docs/recipes.md.")
@home_option
def train(name: str, kind: str, recipe: str | None, home: Path | None) -> None:
    """Ask for a run now; prints its id."""
    from backtalk import catalogue, triggers

    with open_system(home, "train") as system, system.db.transaction() as session:
        model = catalogue.get_model(session, name)
        recipe = triggers.check_recipe(RunKind(kind), recipe, system.settings.recipes)
        run = triggers.request_run(session, model=model, kind=RunKind(kind), caller=CLI, recipe=recipe)
        run_id = str(run.id)
    click.echo(run_id)
    click.echo(f"`backtalk status {name}` shows how it goes.", err=True)


@click.command()
@click.argument("name")
@click.argument("number", type=click.IntRange(min=1))
@home_option
def promote(name: str, number: int, home: Path | None) -> None:
    """Make a version live."""
    from backtalk import promotion
    from backtalk.interventions import Asked

    with open_system(home, "promote") as system:
        changed = promotion.promote_version(system, model_name=name, number=number, caller=CLI)
        if isinstance(changed, Asked):
            click.echo(f"A worker is asked to make version {number} live: this user may not write the store.")
            return
        _tell_change(changed)
        report_replicas(system, name, changed.generation)


@click.command()
@click.argument("name")
@home_option
def rollback(name: str, home: Path | None) -> None:
    """Go back to the version before, and hold: nothing is promoted by itself until hold=false."""
    from backtalk import promotion

    with open_system(home, "rollback") as system:
        changed = promotion.rollback_model(system, model_name=name, caller=CLI)
        _tell_change(changed)
        click.echo(f"{name} is on hold now; `backtalk policy set {name} hold=false` lifts that.", err=True)
        report_replicas(system, name, changed.generation)


def _tell_change(changed: "Changed") -> None:
    click.echo(f"{changed.model}: version {changed.version} is live, generation {changed.generation}.")


def _print_policy(values: dict[str, Any]) -> None:
    for key, value in values.items():
        click.echo(f"{key}={write_value(value)}")


def _describe(created: "Created") -> None:
    splits = ", ".join(f"{count} {split}" for split, count in created.splits.items())
    click.echo(f"{created.name}: {created.images} images of {len(created.labels)} labels ({splits}).")
    if created.repeated:
        click.echo(f"{created.repeated} files show pixels that another shows too, and count once.")
    _list_skipped(created.skipped)
    click.echo(f"{created.groups} groups of near-duplicates; the largest has {created.largest_group} images.")
    if created.largest_group > LARGE_GROUP * created.images:
        click.echo(
            f"Warning: one group holds {created.largest_group / created.images:.0%} of all images, and all "
            "of it lies on one side; measured accuracy may be far off.",
            err=True,
        )
    if created.straddling:
        click.echo(f"{created.straddling} images lie near groups of different sides and are left out.")
    if created.holdout_accuracy is not None and created.holdout_interval is not None:
        low, high = created.holdout_interval
        click.echo(
            f"Version 1 is live. On {created.splits.get('holdout', 0)} holdout images it is right in "
            f"{created.holdout_accuracy:.1%} (95 % interval {low:.1%} to {high:.1%})."
        )


def _list_skipped(skipped: list[tuple[Path, str]]) -> None:
    if not skipped:
        return
    click.echo(f"{len(skipped)} files could not be used:", err=True)
    for path, reason in skipped[:_SHOWN]:
        click.echo(f"  {path}: {reason}", err=True)
    if len(skipped) > _SHOWN:
        click.echo(f"  … and {len(skipped) - _SHOWN} more", err=True)

"""`backup` and `restore`."""

from pathlib import Path

import click

from backtalk.commands.frame import home_option, load_settings, open_system, show_progress
from backtalk.errors import Conflict


@click.command()
@click.argument("folder", type=click.Path(file_okay=False, path_type=Path))
@home_option
def backup(folder: Path, home: Path | None) -> None:
    """Write database, images and versions to FOLDER, which must be new or empty. The stack may run on."""
    from backtalk import backups

    with open_system(home, "backup") as system, show_progress() as report:
        made = backups.back_up(system, folder, report)
    rows = sum(table["rows"] for table in made.dump.tables.values())
    click.echo(f"{folder}: {rows:,} rows and {made.files:,} files, {made.byte_size / 2**20:,.1f} MB.")
    if made.deleted_meanwhile:
        click.echo(f"{len(made.deleted_meanwhile)} images were deleted meanwhile, and will be on restore.")
    if made.missing:
        raise click.ClickException(
            f"{len(made.missing)} things that rows name were not there, such as {made.missing[0]}: "
            "see `backtalk verify`. All else is in the backup."
        )


@click.command()
@click.argument("folder", type=click.Path(exists=True, file_okay=False, path_type=Path))
@home_option
def restore(folder: Path, home: Path | None) -> None:
    """Bring back the backup in FOLDER, into a home and a database that are empty, and verify it."""
    from backtalk import restoring, verification
    from backtalk.backupfiles import Description
    from backtalk.home import find_stack

    Description.load(folder)  # what is no backup is refused before anything is started or made
    settings = load_settings(home=home)
    if stack := find_stack(settings.home.absolute()):
        raise Conflict(f"A stack runs on {settings.home} ({stack.address}): stop it, then restore.")
    with open_system(home, "restore") as system, show_progress() as report:
        owner_url = system.settings.migration_url or system.settings.database_url or ""
        made = restoring.restore(system, owner_url, folder, report)
        findings = verification.verify(system)
    bad = [finding for finding in findings if finding.problem is not None]
    for finding in bad:
        click.echo(f"BAD {finding.model} {finding.subject}: {finding.problem}")
    if bad:
        raise click.ClickException(f"Restored, but {len(bad)} of {len(findings)} checks failed.")
    click.echo(f"Restored the backup of {made.made_at}; all {len(findings)} checks hold.")

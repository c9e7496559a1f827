"""`dataset`: what runs learned from, as folders."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import click

from backtalk.commands.frame import home_option, open_system, show_progress

if TYPE_CHECKING:
    from backtalk.datasetfiles import Dataset, Difference, Entry
    from backtalk.system import System

_SHOWN = 20  # changed pictures that are listed one by one


@click.group()
def dataset() -> None:
    """Versions of the data: list, export, compare, import."""


@dataset.command("list")
@click.argument("name")
@home_option
def list_datasets(name: str, home: Path | None) -> None:
    """Snapshots of a model, newest first, with the versions that learned from them."""
    from backtalk import catalogue, datasets

    with open_system(home, "dataset list") as system, system.db.reading() as session:
        listed = datasets.list_datasets(session, catalogue.get_model(session, name))
    for one in listed:
        splits = ", ".join(f"{n} {split}" for split, n in sorted(one.counts.get("splits", {}).items()))
        versions = ", ".join(f"v{number}" for number in one.versions) or "no version"
        click.echo(f"{one.digest[:12]}\t{one.created_at:%Y-%m-%d %H:%M}\t{versions}\t{splits}")


@dataset.command("export")
@click.argument("name")
@click.argument("folder", type=click.Path(file_okay=False, path_type=Path))
@click.option("--snapshot", metavar="DIGEST|vN", help="The newest if not given.")
@home_option
def export_dataset(name: str, folder: Path, snapshot: str | None, home: Path | None) -> None:
    """Write what a run learned from to FOLDER: pictures by split and label, a Parquet table, sums."""
    from backtalk import catalogue, datasets

    with open_system(home, "dataset export") as system, show_progress() as report:
        with system.db.reading() as session:
            model = catalogue.get_model(session, name)
            found = datasets.find_snapshot(session, model, snapshot)
        made = datasets.export_dataset(system, model, found, folder.absolute(), report)
    click.echo(f"{folder}: {made.files:,} pictures, {made.byte_size / 2**20:,.1f} MB.")
    click.echo(f"digest {made.description.digest}")
    if made.description.missing:
        click.echo(
            f"{made.description.missing} pictures of snapshot {made.description.snapshot[:12]} were deleted "
            "or are not kept: the digest is of those that are left."
        )


@dataset.command("diff")
@click.argument("before")
@click.argument("after")
@click.option("--model", "name", help="Whose snapshots BEFORE and AFTER are, where they are no folders.")
@click.option("--json", "as_json", is_flag=True, help="For machines.")
@home_option
def diff_datasets(before: str, after: str, name: str | None, as_json: bool, home: Path | None) -> None:
    """What AFTER has and BEFORE has not, and the other way round. Each is a folder, a digest or vN."""
    from backtalk.datasetfiles import compare

    with _reader(name, home) as read:
        difference = compare(read(before), read(after))
    if as_json:
        click.echo(json.dumps(_to_json(difference), ensure_ascii=False))
    else:
        _print(difference)


@contextmanager
def _reader(name: str | None, home: Path | None) -> Iterator["_Reader"]:
    if name is None:
        yield _Reader(None, None)
        return
    with open_system(home, "dataset diff") as system:
        yield _Reader(system, name)


class _Reader:
    """Reads a dataset from a folder or, where a model is named, from the database."""

    def __init__(self, system: "System | None", name: str | None) -> None:
        self._system, self._name = system, name

    def __call__(self, word: str) -> "Dataset":
        from backtalk import catalogue, datasets
        from backtalk.datasetfiles import read_dataset

        if self._system is None or self._name is None or Path(word).is_dir():
            return read_dataset(Path(word))
        with self._system.db.reading() as session:
            model = catalogue.get_model(session, self._name)
            return datasets.read_snapshot(session, model, datasets.find_snapshot(session, model, word))


def _print(difference: "Difference") -> None:
    if difference.is_empty:
        click.echo(f"No difference: {difference.unchanged:,} pictures.")
        return
    lines = [f"+ {e.split}\t{e.label or '-'}\t{e.pixels_sha256[:20]}" for e in difference.added]
    lines += [f"- {e.split}\t{e.label or '-'}\t{e.pixels_sha256[:20]}" for e in difference.removed]
    lines += [f"~ {a.label} -> {b.label}\t{a.pixels_sha256[:20]}" for a, b in difference.relabelled]
    lines += [f"> {a.split} -> {b.split}\t{a.pixels_sha256[:20]}" for a, b in difference.moved]
    lines += [f"! {a.origin} -> {b.origin}\t{a.pixels_sha256[:20]}" for a, b in difference.changed]
    for line in lines[:_SHOWN]:
        click.echo(line)
    if len(lines) > _SHOWN:
        click.echo(f"… and {len(lines) - _SHOWN:,} more; --json has all.")
    before, after = (json.dumps(counted, sort_keys=True) for counted in difference.left_out)
    if before != after:
        click.echo(f"left out: {before} -> {after}")
    click.echo(
        f"{len(difference.added):,} added, {len(difference.removed):,} removed, "
        f"{len(difference.relabelled):,} relabelled, {len(difference.moved):,} moved, "
        f"{len(difference.changed):,} of another origin, {difference.unchanged:,} unchanged."
    )


def _to_json(difference: "Difference") -> dict[str, object]:
    def tell(entry: object) -> dict[str, object]:
        return {key: getattr(entry, key) for key in ("pixels_sha256", "split", "label", "origin")}

    def tell_pairs(pairs: "list[tuple[Entry, Entry]]") -> list[dict[str, object]]:
        return [{"before": tell(a), "after": tell(b)} for a, b in pairs]

    return {
        "before": difference.before,
        "after": difference.after,
        "added": [tell(e) for e in difference.added],
        "removed": [tell(e) for e in difference.removed],
        "relabelled": tell_pairs(difference.relabelled),
        "moved": tell_pairs(difference.moved),
        "changed": tell_pairs(difference.changed),
        "left_out": dict(zip(("before", "after"), difference.left_out, strict=True)),
        "unchanged": difference.unchanged,
    }


@dataset.command("import")
@click.argument("name")
@click.argument("folder", type=click.Path(exists=True, file_okay=False, path_type=Path))
@home_option
def import_dataset(name: str, folder: Path, home: Path | None) -> None:
    """Make the pictures of an exported dataset samples of model NAME, with their splits; all or none."""
    from backtalk import importing

    with open_system(home, "dataset import") as system, show_progress() as report:
        made = importing.import_dataset(system, model_name=name, folder=folder, report=report)
    click.echo(
        f"{made.new:,} new, {made.known:,} known before, {made.unlabelled:,} without a label. "
        "The next run learns from them."
    )
    click.echo(f"digest {made.digest}")

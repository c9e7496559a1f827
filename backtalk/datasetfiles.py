"""A dataset as a folder: pictures in folders by split and label, a Parquet table, a description, sums.

    dataset.json            what it is, with its digest
    samples.parquet         a row for each picture (`SCHEMA` below), by file name
    train/<label>/…         the pictures, upright, named by their pixels
    validation/<label>/…
    unlabelled/…            pictures of the stay-right term
    SHA256SUMS

The same content gives the same bytes, so that a tool that versions folders (DVC, for one) sees no change
where there is none. `train` and `validation` are folders as `models create --from` and most libraries read
them.
"""

import json
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, field, fields
from hashlib import sha256
from pathlib import Path
from typing import Any

from backtalk.digests import digest_content
from backtalk.errors import ArtefactInvalid, DatasetInvalid, RefusedImage
from backtalk.images import MAX_STORED_PIXELS, Picture, decode, perceptual_hash, pixels_digest
from backtalk.states import Origin, Split
from backtalk.sums import SUMS, verify_sums

FORMAT = 1
DESCRIPTION, SAMPLES = "dataset.json", "samples.parquet"
#: Where the pictures of the stay-right term lie; they have no label and no split.
UNLABELLED = "unlabelled"
SPLITS = (Split.TRAIN, Split.VALIDATION)


@dataclass(frozen=True)
class Entry:
    """One picture. `label`, `origin` and `by_person` are None for those of the stay-right term."""

    file: str  # relative to the folder
    pixels_sha256: str
    split: str  # train, validation or unlabelled
    label: str | None
    origin: str | None
    by_person: bool | None
    width: int
    height: int
    perceptual_hash: int  # 64 bits, as a signed integer
    group: int  # near-duplicates share it; a number within this dataset
    group_hash: int  # perceptual hash of the group's first picture, which need not be in the dataset


@dataclass(frozen=True)
class Description:
    """`dataset.json`. `missing`: pictures of the snapshot that were deleted or are not kept; without any,
    `digest` is the snapshot's own."""

    model: str
    labels: list[str]
    digest: str
    snapshot: str
    missing: int
    left_out: dict[str, Any] = field(default_factory=dict)  # by the caps, as in the snapshot's counts
    counts: dict[str, Any] = field(default_factory=dict)
    format: int = FORMAT


@dataclass(frozen=True)
class Dataset:
    """What a folder, or a snapshot in the database, holds."""

    description: Description
    entries: list[Entry]


def digest_entries(entries: Sequence[Entry], left_out: dict[str, Any]) -> str:
    """As a snapshot with this content has it."""
    return digest_content(
        ((e.pixels_sha256, e.label, e.split, e.origin) for e in entries if e.label and e.origin),
        (e.pixels_sha256 for e in entries if e.label is None),
        left_out,
    )


def count_entries(entries: Iterable[Entry]) -> dict[str, Any]:
    """How many by split, and by label of the train split."""
    listed = list(entries)
    splits = Counter(entry.split for entry in listed)
    labels = Counter(entry.label or "" for entry in listed if entry.split == Split.TRAIN)
    return {"splits": dict(sorted(splits.items())), "train_labels": dict(sorted(labels.items()))}


def name_file(entry: Entry, extension: str) -> str:
    """Where a picture lies in the folder. Labels are names of folders: models are made from such."""
    folder = f"{entry.split}/{entry.label}" if entry.label else UNLABELLED
    return f"{folder}/{entry.pixels_sha256[:20]}.{extension}"


def write_tables(folder: Path, dataset: Dataset) -> None:
    """Write the table and the description; the pictures are there already.

    Raises:
        DatasetInvalid: pyarrow is not installed.
    """
    parquet, pyarrow = _import_parquet()
    rows = sorted(dataset.entries, key=lambda entry: entry.file)
    columns = {f.name: [getattr(row, f.name) for row in rows] for f in fields(Entry)}
    table = pyarrow.table(columns, schema=pyarrow.schema(_schema(pyarrow)))
    parquet.write_table(table, folder / SAMPLES, compression="zstd")
    text = json.dumps(asdict(dataset.description), indent=1, ensure_ascii=False, sort_keys=True)
    (folder / DESCRIPTION).write_text(text + "\n", encoding="utf-8")


def _schema(pyarrow: Any) -> list[tuple[str, Any]]:
    text, number = pyarrow.string(), pyarrow.int64()
    types = {"by_person": pyarrow.bool_()}
    numbers = {"width", "height", "perceptual_hash", "group", "group_hash"}
    return [(f.name, types.get(f.name, number if f.name in numbers else text)) for f in fields(Entry)]


def read_description(folder: Path) -> Description:
    """What a folder says of itself, once its sums prove that it is a dataset as it was written and no more.

    Raises:
        DatasetInvalid: it is none, or something was changed, taken out or put in; the message names the file.
    """
    for name in (DESCRIPTION, SAMPLES, SUMS):
        if not (folder / name).is_file():
            raise DatasetInvalid(f"{folder} is no dataset: it has no {name}.")
    try:
        verify_sums(folder, sha256((folder / SUMS).read_bytes()).hexdigest())
        described = json.loads((folder / DESCRIPTION).read_text(encoding="utf-8"))
        if described.get("format") != FORMAT:
            raise DatasetInvalid(
                f"{folder} has format {described.get('format')}; this release reads {FORMAT}."
            )
        return Description(**described)
    except ArtefactInvalid as error:
        raise DatasetInvalid(f"{error.message}. Export it again.") from None
    except (OSError, ValueError, TypeError, AttributeError) as error:
        raise DatasetInvalid(f"{folder} cannot be read: {error}") from None


def read_dataset(folder: Path) -> Dataset:
    """Read a dataset and prove that it is whole: sums, table, digest.

    Raises:
        DatasetInvalid: it is none, or not as it was written; the message names the file.
    """
    parquet, pyarrow = _import_parquet()
    description = read_description(folder)
    try:
        table = parquet.read_table(folder / SAMPLES, schema=pyarrow.schema(_schema(pyarrow)))
        dataset = Dataset(description, [Entry(**row) for row in table.to_pylist()])
    except (OSError, ValueError, TypeError, pyarrow.ArrowException) as error:
        raise DatasetInvalid(f"{folder} cannot be read: {error}") from None
    _check(folder, dataset)
    return dataset


def _check(folder: Path, dataset: Dataset) -> None:
    for entry in dataset.entries:
        problem = _find_problem(folder, entry, dataset.description.labels)
        if problem:
            raise DatasetInvalid(f"{folder / SAMPLES}: {entry.file!r} {problem}.")
    if len({entry.pixels_sha256 for entry in dataset.entries}) != len(dataset.entries):
        raise DatasetInvalid(f"{folder / SAMPLES} holds a picture twice.")
    found = digest_entries(dataset.entries, dataset.description.left_out)
    if found != dataset.description.digest:
        raise DatasetInvalid(f"{folder} says that its digest is {dataset.description.digest}; it is {found}.")


def _find_problem(folder: Path, entry: Entry, labels: Sequence[str]) -> str | None:
    if entry.file != name_file(entry, entry.file.rpartition(".")[2]):
        return "is not where its row says that it belongs"
    if not (folder / entry.file).is_file():
        return "is missing"
    if entry.label is None:
        return None if entry.split == UNLABELLED else "has no label"
    if entry.label not in labels:
        return f"has the label {entry.label!r}, which the description does not list"
    if entry.split not in SPLITS or entry.origin not in set(Origin) or entry.by_person is None:
        return f"is of split {entry.split!r} and origin {entry.origin!r}"
    return None


def read_picture(folder: Path, entry: Entry, max_bytes: int) -> Picture:
    """Read a picture and hold its row against its pixels: by them it is placed among those that are known.

    Raises:
        DatasetInvalid: it is another one than its row says, or cannot be read; the message names the file.
    """
    path = folder / entry.file
    if (size := path.stat().st_size) > max_bytes:
        raise DatasetInvalid(f"{path} has {size:,} bytes; at most {max_bytes:,} are taken.")
    try:
        picture = decode(path.read_bytes(), max_bytes=max_bytes, max_pixels=MAX_STORED_PIXELS)
    except RefusedImage as error:
        raise DatasetInvalid(f"{path}: {error.message}") from None
    if picture.orientation != 1:  # only the row of an image may hold that, and a dataset has no column for it
        raise DatasetInvalid(f"{path} is turned by its metadata; the pictures of a dataset lie upright.")
    if pixels_digest(picture.pixels) != entry.pixels_sha256:
        raise DatasetInvalid(f"{path} shows another picture than its row says.")
    found = {"width": picture.width, "height": picture.height}
    for name, value in (found | {"perceptual_hash": perceptual_hash(picture.pixels)}).items():
        if getattr(entry, name) != value:
            raise DatasetInvalid(f"{path} has the {name} {value}; its row says {getattr(entry, name)}.")
    return picture


def _import_parquet() -> tuple[Any, Any]:
    try:
        import pyarrow as pa
        from pyarrow import parquet
    except ModuleNotFoundError:
        raise DatasetInvalid(
            "Datasets need pyarrow, which is not installed here: pip install 'backtalk[train]'."
        ) from None
    return parquet, pa


@dataclass(frozen=True)
class Difference:
    """What the second dataset has and the first has not, by the pixels of the pictures."""

    before: str
    after: str
    added: list[Entry]
    removed: list[Entry]
    relabelled: list[tuple[Entry, Entry]]
    moved: list[tuple[Entry, Entry]]  # to another split, or to or from the unlabelled
    changed: list[tuple[Entry, Entry]]  # in origin alone
    left_out: tuple[dict[str, Any], dict[str, Any]]  # by the caps
    unchanged: int

    @property
    def is_empty(self) -> bool:
        """The digest is over all that is compared here, so it has the last word."""
        return self.before == self.after


def compare(before: Dataset, after: Dataset) -> Difference:
    """By the pixels: a picture in another encoding is the same one."""
    old = {entry.pixels_sha256: entry for entry in before.entries}
    new = {entry.pixels_sha256: entry for entry in after.entries}
    both = [(old[key], new[key]) for key in old if key in new]
    relabelled = [(a, b) for a, b in both if a.label and b.label and a.label != b.label]
    moved = [(a, b) for a, b in both if a.split != b.split]
    changed = [(a, b) for a, b in both if (a.label, a.split) == (b.label, b.split) and a.origin != b.origin]
    different = {a.pixels_sha256 for a, _ in [*relabelled, *moved, *changed]}
    return Difference(
        before=before.description.digest,
        after=after.description.digest,
        added=[entry for key, entry in new.items() if key not in old],
        removed=[entry for key, entry in old.items() if key not in new],
        relabelled=relabelled,
        moved=moved,
        changed=changed,
        left_out=(before.description.left_out, after.description.left_out),
        unchanged=len(both) - len(different),
    )

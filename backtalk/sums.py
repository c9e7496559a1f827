"""The sums of an artefact, and the writes that survive a power cut."""

import os
import tempfile
from hashlib import file_digest, sha256
from pathlib import Path
from uuid import uuid4

from backtalk.errors import ArtefactInvalid
from backtalk.failpoints import failpoint

SUMS = "SHA256SUMS"
#: What stays of a version whose SavedModel was pruned: enough to replay its scores and to explain it.
KEPT_AFTER_PRUNING = frozenset({"head.npz", "card.json", SUMS})


def sync_folder(folder: Path) -> None:
    """Make the names in a folder survive a power cut."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def make_folder(folder: Path) -> None:
    """Make a folder and those above it, each name synced; fine if it is there."""
    if folder.is_dir():
        return
    make_folder(folder.parent)
    folder.mkdir(exist_ok=True)
    sync_folder(folder.parent)


def read_disk_clock(folder: Path) -> float:
    """The time, by the clock that dates files in `folder` (seconds since 1970).

    On a shared disk that is not this machine's: by its own clock, a day ahead, it would take what another
    machine is just writing for something long left behind.
    """
    with tempfile.TemporaryFile(dir=folder) as file:
        return os.fstat(file.fileno()).st_mtime


def write_atomically(path: Path, data: bytes) -> None:
    """Replace a file so that a reader, or a crash at any moment, finds the old or the new one, whole."""
    make_folder(path.parent)
    aside = path.parent / f".{path.name}.{uuid4().hex}"
    try:
        with aside.open("xb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        failpoint("files.before_rename")
        aside.rename(path)
        failpoint("files.after_rename")
    except BaseException:
        aside.unlink(missing_ok=True)
        raise
    sync_folder(path.parent)


def write_sums(folder: Path) -> str:
    """Write `SHA256SUMS` over all files below, in `sha256sum -c` format, and sync files, then folders.

    Returns:
        The SHA-256 of `SHA256SUMS`: the artefact's digest.

    Raises:
        ArtefactInvalid: a link or a special file lies in the folder.
    """
    names = _list_files(folder)
    lines = []
    for name in names:
        with (folder / name).open("rb") as file:
            lines.append(f"{file_digest(file, 'sha256').hexdigest()}  {name}\n")
            os.fsync(file.fileno())
    for parent in sorted({(folder / name).parent for name in names}, reverse=True):
        sync_folder(parent)
    text = "".join(lines).encode()
    write_atomically(folder / SUMS, text)
    return sha256(text).hexdigest()


def verify_sums(folder: Path, artefact_digest: str, *, pruned: bool = False) -> None:
    """Prove that a folder holds exactly what was written.

    Args:
        artefact_digest: what `write_sums` returned.
        pruned: do not miss what `VersionStore.prune` removes.

    Raises:
        ArtefactInvalid: names the file that is missing, changed or too many.
    """
    listed = read_sums(check_sums_digest(folder, artefact_digest))
    present = set(_list_files(folder))
    if extra := sorted(present - listed.keys()):
        raise ArtefactInvalid(f"{folder.name}: {extra[0]} does not belong to this artefact", file=extra[0])
    for name, digest in listed.items():
        if name not in present:
            if pruned and name not in KEPT_AFTER_PRUNING:
                continue
            raise ArtefactInvalid(f"{folder.name}: {name} is missing", file=name)
        with (folder / name).open("rb") as file:
            if file_digest(file, "sha256").hexdigest() != digest:
                raise ArtefactInvalid(f"{folder.name}: {name} was changed", file=name)


def check_sums_digest(folder: Path, artefact_digest: str) -> str:
    """Return the text of `SHA256SUMS` if it has this digest, else raise ArtefactInvalid."""
    try:
        data = (folder / SUMS).read_bytes()
    except OSError:
        raise ArtefactInvalid(f"{folder.name}: {SUMS} is missing", file=SUMS) from None
    if sha256(data).hexdigest() != artefact_digest:
        raise ArtefactInvalid(f"{folder.name}: {SUMS} was changed", file=SUMS)
    return data.decode()


def read_sums(text: str) -> dict[str, str]:
    """Digests by name, of a `SHA256SUMS` file."""
    return {line[66:]: line[:64] for line in text.splitlines()}


def _list_files(folder: Path) -> list[str]:
    """Relative names of all files but `SHA256SUMS`, sorted."""
    names = []
    for path in folder.rglob("*"):
        name = path.relative_to(folder).as_posix()
        if path.is_symlink() or not (path.is_file() or path.is_dir()) or "\n" in name:
            raise ArtefactInvalid(f"{folder.name}: {name!r} is not a plain file", file=name)
        if path.is_file() and name != SUMS:
            names.append(name)
    return sorted(names)

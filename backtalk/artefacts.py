"""What a version consists of on disk: card, sums, and the two forms in which it can be taken along."""

import json
from dataclasses import dataclass
from hashlib import file_digest
from pathlib import Path
from typing import Any

from backtalk.champions import locate
from backtalk.errors import ArtefactInvalid
from backtalk.heads import Head
from backtalk.runtime import FLATBUFFER
from backtalk.states import VersionState
from backtalk.store import verify_sums
from backtalk.sums import KEPT_AFTER_PRUNING, SUMS, check_sums_digest, read_sums
from backtalk.system import System
from backtalk.tables import Version

HEAD, CARD, LABELS = "head.npz", "card.json", "labels.txt"
_LARGEST_CARD = 1 << 20  # bytes


@dataclass(frozen=True)
class Part:
    """One file of an artefact; `size` in bytes is None where it is not there (any more)."""

    name: str
    digest: str
    size: int | None


@dataclass(frozen=True)
class Artefact:
    """`problem` says why the rest is empty."""

    card: dict[str, Any]
    parts: list[Part]
    problem: str | None = None


def describe_artefact(system: System, version: Version) -> Artefact:
    """The card and the list of files, as `SHA256SUMS` has them; contents are not read."""
    folder = locate(system, version)
    try:
        listed = read_sums(check_sums_digest(folder, version.artefact_digest))
        card = _read_card(folder / CARD)
    except ArtefactInvalid as error:
        return Artefact({}, [], error.message)
    parts = [Part(name, digest, _find_size(folder / name)) for name, digest in listed.items()]
    return Artefact(card, parts)


def _read_card(path: Path) -> dict[str, Any]:
    try:
        with path.open("rb") as file:
            card = json.loads(file.read(_LARGEST_CARD))
    except FileNotFoundError:
        return {}
    except (OSError, ValueError) as error:
        raise ArtefactInvalid(f"{path.name} cannot be read: {error}", file=path.name) from None
    return card if isinstance(card, dict) else {}


def _find_size(path: Path) -> int | None:
    try:
        return path.stat().st_size
    except OSError:
        return None


def verify_artefact(system: System, version: Version) -> None:
    """Read every file of it, and of what remains if it was pruned.

    Raises:
        ArtefactInvalid: names the file that is missing, changed or too many.
    """
    folder = locate(system, version)
    verify_sums(folder, version.artefact_digest, pruned=version.pruned_at is not None)
    Head.load(folder / HEAD)


def list_saved_model(system: System, version: Version) -> dict[str, Path | bytes]:
    """Every file of the artefact, verified: name in it to path.

    Raises:
        ArtefactInvalid: it was pruned or quarantined, or does not verify.
    """
    if version.pruned_at is not None:
        raise ArtefactInvalid(f"The SavedModel of version {version.number} was pruned to save room.")
    _refuse_quarantined(version)
    folder = locate(system, version)
    verify_sums(folder, version.artefact_digest)
    listed = read_sums(check_sums_digest(folder, version.artefact_digest))
    return {name: folder / name for name in [*listed, SUMS]}


def list_litert(system: System, version: Version) -> dict[str, Path | bytes]:
    """What answers outside TensorFlow: the backbone as LiteRT flatbuffer, the head, the labels, the card.

    Raises:
        ArtefactInvalid: it was quarantined, or a file is missing or was changed.
    """
    _refuse_quarantined(version)
    verify_artefact(system, version)
    folder = locate(system, version)
    backbone = system.versions.backbone_dir(version.backbone_digest) / FLATBUFFER
    _check_backbone(backbone, version.backbone_digest)
    head = Head.load(folder / HEAD)
    files: dict[str, Path | bytes] = {
        FLATBUFFER: backbone,
        LABELS: "".join(f"{label}\n" for label in head.labels).encode(),
    }
    return files | {name: folder / name for name in sorted(KEPT_AFTER_PRUNING)}


def _refuse_quarantined(version: Version) -> None:
    if version.state == VersionState.QUARANTINED:
        raise ArtefactInvalid(f"Version {version.number} is quarantined: its files do not verify.")


def _check_backbone(path: Path, digest: str) -> None:
    """A backbone's digest is the SHA-256 of its flatbuffer."""
    try:
        with path.open("rb") as file:
            found = file_digest(file, "sha256").hexdigest()
    except OSError:
        raise ArtefactInvalid(f"The backbone {digest[:12]} is missing.", file=path.name) from None
    if found != digest:
        raise ArtefactInvalid(f"The backbone {digest[:12]} was changed.", file=path.name)

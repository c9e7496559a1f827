"""Checkpoints that survive a kill at any moment. No TensorFlow.

`<folder>/<step>-<fence>/` holds `state.npz` (every array of the training), `state.json` (where it stands, and
what it is a checkpoint of) and `SHA256SUMS`. It is written aside, synced and renamed, so it appears whole or
not at all; the newest that verifies wins, and two are kept. Keras' `BackupAndRestore` overwrites its only
copy in place, and its own savers forget the optimiser's step.
"""

import json
import re
import shutil
import zipfile
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any
from uuid import uuid4

import numpy as np
from numpy.typing import NDArray

from backtalk.errors import ArtefactInvalid
from backtalk.failpoints import failpoint
from backtalk.sums import SUMS, make_folder, sync_folder, verify_sums, write_sums

KEPT = 2
_NAME = re.compile(r"([0-9]{9})-([0-9]+)")

Arrays = dict[str, NDArray[Any]]


@dataclass(frozen=True, eq=False)
class Checkpoint:
    """Where a training stands after `step` steps."""

    step: int
    arrays: Arrays
    state: dict[str, Any]


class Checkpoints:
    """One run's. `identity` says what is trained, on what and how: another one's checkpoints do not count."""

    def __init__(self, folder: Path, fence: int, identity: dict[str, Any]) -> None:
        self._folder = folder
        self._fence = fence
        # As it comes back from the file: tuples are lists there.
        self._identity = json.loads(json.dumps(identity))

    def save(self, checkpoint: Checkpoint) -> None:
        """Durable on return. The attempt's fence is part of the name: two owners never write to one folder.

        Raises:
            OSError: the disk is full; what was there before is still there.
        """
        make_folder(self._folder)
        aside = self._folder / f".new-{uuid4().hex}"
        aside.mkdir()
        try:
            np.savez(aside / "state.npz", **checkpoint.arrays)  # type: ignore[arg-type]  # numpy's stub
            failpoint("checkpoint.before_sums")
            content = {"identity": self._identity, "step": checkpoint.step, "state": checkpoint.state}
            (aside / "state.json").write_text(json.dumps(content), encoding="utf-8")
            write_sums(aside)
            target = self._folder / f"{checkpoint.step:09d}-{self._fence}"
            shutil.rmtree(target, ignore_errors=True)  # one that did not verify
            failpoint("checkpoint.before_rename")
            aside.rename(target)
            failpoint("checkpoint.after_rename")
        finally:
            shutil.rmtree(aside, ignore_errors=True)
        sync_folder(self._folder)
        self._forget()

    def find_newest(self) -> Checkpoint | None:
        """The furthest that is whole and of the same training; whoever wrote it. None: begin anew.

        Those beyond it go: nobody can take them up, and they would pass for newer than all that is saved now.
        So does what a killed attempt left aside; one that still lives can save nothing whole from that.
        """
        for path in self._folder.glob(".new-*"):
            shutil.rmtree(path, ignore_errors=True)
        for path in reversed(self._list()):
            found = self._read(path)
            if found is not None:
                return found
            shutil.rmtree(path, ignore_errors=True)
        return None

    def _read(self, path: Path) -> Checkpoint | None:
        try:
            verify_sums(path, sha256((path / SUMS).read_bytes()).hexdigest())
            content = json.loads((path / "state.json").read_text(encoding="utf-8"))
            if content["identity"] != self._identity:
                return None
            with np.load(path / "state.npz", allow_pickle=False) as stored:
                arrays = {name: stored[name] for name in stored.files}
            return Checkpoint(content["step"], arrays, content["state"])
        except (ArtefactInvalid, OSError, ValueError, KeyError, TypeError, zipfile.BadZipFile):
            return None

    def _list(self) -> list[Path]:
        """By step, then by fence."""
        named = [(m, p) for p in self._folder.glob("*-*") if (m := _NAME.fullmatch(p.name))]
        return [path for _, path in sorted(named, key=lambda pair: tuple(map(int, pair[0].groups())))]

    def _forget(self) -> None:
        """Keep the newest ones."""
        for path in self._list()[:-KEPT]:
            shutil.rmtree(path, ignore_errors=True)

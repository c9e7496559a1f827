"""Files on disk: the images as they came, and the versions. `models_store/README.md` is the contract.

Every name that others may see appears whole or not at all: written aside, synced, then renamed.
"""

import os
import re
import shutil
import time
from collections.abc import Iterator
from hashlib import sha256
from pathlib import Path
from uuid import UUID, uuid4

from backtalk.errors import ArtefactInvalid, ImageNotFound, InvalidName
from backtalk.failpoints import failpoint
from backtalk.sums import (
    KEPT_AFTER_PRUNING,
    check_sums_digest,
    make_folder,
    sync_folder,
    verify_sums,
    write_atomically,
    write_sums,
)

__all__ = ["ImageStore", "VersionStore", "check_model_name", "verify_sums", "write_sums"]

MODEL_NAME = re.compile(r"[a-z0-9][a-z0-9-]{0,62}")
#: Names this old are on the disk, whether or not their writer came to sync them (seconds).
_SETTLED_S = 60.0
_SHA256 = re.compile(r"[0-9a-f]{64}")
_IMAGE_KEY = re.compile(r"[0-9a-f]{2}/[0-9a-f]{64}-[0-9a-f]{16}")
_RELATIVE = re.compile(rf"{MODEL_NAME.pattern}/(?:[1-9][0-9]*|\.candidates/[0-9a-f-]{{1,64}})")


def check_model_name(name: str) -> str:
    """Return the name, which is safe as a folder and in a URL.

    Raises:
        InvalidName: it is not 1 to 63 of a-z, 0-9 and "-", the first no "-".
    """
    if not MODEL_NAME.fullmatch(name):
        raise InvalidName(
            f"{name!r} cannot name a model: use 1 to 63 of a-z, 0-9 and '-', beginning with a letter or digit"
        )
    return name


# --- images ------------------------------------------------------------------------------------
class ImageStore:
    """The uploads' own compressed data, metadata cut out: `<2 hex>/<pixels sha256>-<16 hex of the data>`.

    The data's own digest is part of the key, since two files with the same pixels may need different
    orientations: the row that holds the key holds the orientation of just those bytes.
    """

    def __init__(self, root: Path) -> None:
        self.root = root
        self._incoming = root / ".incoming"

    def put(self, pixels_sha256: str, data: bytes) -> str:
        """Keep an image and return its key. Durable on return; any number of callers may put the same one."""
        if not _SHA256.fullmatch(pixels_sha256):
            raise ValueError("pixels_sha256 must be 64 hexadecimal digits")
        key = f"{pixels_sha256[:2]}/{pixels_sha256}-{sha256(data).hexdigest()[:16]}"
        path = self.root / key
        try:
            settled = path.stat().st_mtime < time.time() - _SETTLED_S
        except FileNotFoundError:
            self._write(path, data)
            settled = False
        if not settled:  # also where another writer has just renamed it, and not yet synced the name
            sync_folder(path.parent)
        return key

    def _write(self, path: Path, data: bytes) -> None:
        try:  # the folders are nearly always there, and each look at them is paid by a prediction
            self._place(path, data)
        except FileNotFoundError:
            make_folder(self._incoming)
            make_folder(path.parent)
            self._place(path, data)

    def _place(self, path: Path, data: bytes) -> None:
        aside = self._incoming / uuid4().hex
        try:
            _write_synced(aside, data)
            failpoint("images.before_rename")
            aside.rename(path)
            failpoint("images.after_rename")
        except BaseException:
            aside.unlink(missing_ok=True)
            raise

    def get(self, key: str) -> bytes:
        """Raises ImageNotFound: no such file, or it is damaged."""
        try:
            data = self._path(key).read_bytes()
        except FileNotFoundError:
            raise ImageNotFound("The image's file is gone from the store.") from None
        if sha256(data).hexdigest()[:16] != key[-16:]:
            raise ImageNotFound("The image's file in the store is damaged; restore it from a backup.")
        return data

    def delete(self, key: str) -> None:
        """Remove every file with the pixels that the key names; fine if there is none."""
        path = self._path(key)
        for twin in path.parent.glob(path.name[:64] + "-*"):
            twin.unlink(missing_ok=True)
        if path.parent.is_dir():
            sync_folder(path.parent)

    def keys(self) -> Iterator[str]:
        """Every key in the store, in no order."""
        for path in self.root.glob("[0-9a-f][0-9a-f]/*"):
            key = f"{path.parent.name}/{path.name}"
            if _IMAGE_KEY.fullmatch(key):
                yield key

    def sweep(self, older_than_s: float = 3600.0) -> int:
        """Remove what broken-off writes left aside; returns how many files."""
        removed = 0
        for path in self._incoming.glob("*"):
            try:
                if path.stat().st_mtime < time.time() - older_than_s:
                    path.unlink()
                    removed += 1
            except FileNotFoundError:  # its writer has just finished
                continue
        return removed

    def _path(self, key: str) -> Path:
        if not _IMAGE_KEY.fullmatch(key):
            raise ImageNotFound(f"{key!r} is no key of an image.")
        return self.root / key


def _write_synced(path: Path, data: bytes) -> None:
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o666)
    try:
        failpoint("images.before_write")
        rest = memoryview(data)
        while rest:  # a disk that fills up takes a part, and says so only at the next write
            rest = rest[os.write(descriptor, rest) :]
        failpoint("images.before_sync")
        os.fdatasync(descriptor)
    finally:
        os.close(descriptor)


# --- versions ----------------------------------------------------------------------------------
class VersionStore:
    """The artefacts of all models, and the `models.config` that TensorFlow Serving reads.

    `serving_prefix` is where TensorFlow Serving sees this store: `base_path` is `<prefix>/<model>`.
    """

    def __init__(self, root: Path, serving_prefix: str = "/models") -> None:
        self.root = root
        self.serving_prefix = serving_prefix.rstrip("/")

    @property
    def models_config_path(self) -> Path:
        return self.root / "models.config"

    def backbone_dir(self, digest: str) -> Path:
        """The folder of a backbone, there or not. Raises InvalidName: not a SHA-256."""
        if not _SHA256.fullmatch(digest):
            raise InvalidName(f"{digest!r} is no backbone digest: expected 64 hexadecimal digits")
        return self.root / "_backbones" / digest

    def golden_path(self, model: str) -> Path:
        """The inputs that every version of a model is verified on."""
        return self.root / check_model_name(model) / ".golden" / "golden.npz"

    def candidate_path(self, model: str, run_id: UUID | str, fence: int) -> str:
        """Where one attempt writes, relative to the store: no two attempts share a folder."""
        return f"{check_model_name(model)}/.candidates/{UUID(str(run_id))}-{int(fence)}"

    def resolve(self, relative: str) -> Path:
        """The folder of a version or candidate.

        Raises:
            InvalidName: not `<model>/<N>` or `<model>/.candidates/<run>-<fence>`, or it leads out by a link.
        """
        path = self.root / relative
        if not _RELATIVE.fullmatch(relative) or not path.resolve().is_relative_to(self.root.resolve()):
            raise InvalidName(f"{relative!r} is no place of a version in the store")
        return path

    def publish(self, relative: str, model: str, number: int, artefact_digest: str) -> str:
        """Rename a candidate to `<model>/<N>` and return that. Done before, with the same digest: goes on.

        Raises:
            ArtefactInvalid: the candidate is missing or another, or the number is taken by another artefact.
        """
        target_name = f"{check_model_name(model)}/{int(number)}"
        target = self.resolve(target_name)
        if not target.exists():
            source = self.resolve(relative)
            try:
                check_sums_digest(source, artefact_digest)
                failpoint("store.before_rename")
                source.rename(target)
                failpoint("store.after_rename")
            except (ArtefactInvalid, OSError):
                if not target.is_dir():  # else another process published it in this very moment
                    raise
            if source.parent.is_dir():
                sync_folder(source.parent)
        check_sums_digest(target, artefact_digest)
        sync_folder(target.parent)
        failpoint("store.published")
        return target_name

    def discard(self, relative: str) -> None:
        """Remove the folder of a version or candidate; fine if it is not there."""
        path = self.resolve(relative)
        if path.exists():
            _remove_folder(path)

    def prune(self, relative: str) -> None:
        """Remove a version's SavedModel and keep its head, card and sums; fine if done before."""
        path = self.resolve(relative)
        for entry in sorted(path.iterdir()) if path.is_dir() else ():
            if entry.name in KEPT_AFTER_PRUNING:
                continue
            if entry.is_dir() and not entry.is_symlink():
                _remove_folder(entry)
            else:
                entry.unlink(missing_ok=True)

    def write_models_config(self, live: dict[str, int]) -> None:
        """Name each model's live version to TensorFlow Serving (ModelServerConfig, text format)."""
        configs = "".join(self._model_config(name, live[name]) for name in sorted(live))
        text = (
            f"# Written by Backtalk after each promotion and rollback.\nmodel_config_list {{\n{configs}}}\n"
        )
        write_atomically(self.models_config_path, text.encode())

    def _model_config(self, name: str, number: int) -> str:
        base_path = f"{self.serving_prefix}/{check_model_name(name)}"
        return (
            f'  config {{\n    name: "{name}"\n    base_path: "{base_path}"\n'
            '    model_platform: "tensorflow"\n'
            f"    model_version_policy {{ specific {{ versions: {int(number)} }} }}\n  }}\n"
        )

    def read_models_config(self) -> dict[str, int]:
        """What `write_models_config` wrote last; nothing if it never did.

        Raises:
            ArtefactInvalid: the file says something that it did not write.
        """
        try:
            text = self.models_config_path.read_text(encoding="utf-8")
        except FileNotFoundError:
            return {}
        found = re.findall(r'name: "([^"]*)".*?versions: ([0-9]+)', text, re.DOTALL)
        live = {name: int(number) for name, number in found}
        if len(live) != text.count("config {") or len(found) != len(live):
            raise ArtefactInvalid("models.config was changed by another hand; the next promotion rewrites it")
        return live


def _remove_folder(path: Path) -> None:
    """Out of sight by one rename first: nobody ever meets half of it."""
    aside = path.parent / f".gone-{uuid4().hex}"
    failpoint("store.before_remove")
    try:
        path.rename(aside)
    except FileNotFoundError:  # another process removes it
        return
    sync_folder(path.parent)
    failpoint("store.after_aside")
    shutil.rmtree(aside, ignore_errors=True)

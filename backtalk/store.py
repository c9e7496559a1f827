"""Versions on disk. `models_store/README.md` is the contract; `image_files` keeps the images.

Every name that others may see appears whole or not at all: written aside, synced, then renamed.
"""

import os
import re
import shutil
from pathlib import Path
from uuid import UUID, uuid4

from backtalk.errors import ArtefactInvalid, InvalidName
from backtalk.failpoints import failpoint
from backtalk.image_files import ImageStore
from backtalk.sums import (
    KEPT_AFTER_PRUNING,
    check_sums_digest,
    sync_folder,
    verify_sums,
    write_atomically,
    write_sums,
)

__all__ = ["ImageStore", "VersionStore", "check_model_name", "verify_sums", "write_sums"]

MODEL_NAME = re.compile(r"[a-z0-9][a-z0-9-]{0,62}")
_SHA256 = re.compile(r"[0-9a-f]{64}")
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


class VersionStore:
    """The artefacts of all models, and the `models.config` that TensorFlow Serving reads.

    `serving_prefix` is where TensorFlow Serving sees this store: `base_path` is `<prefix>/<model>`.
    """

    def __init__(self, root: Path, serving_prefix: str = "/models", *, readonly: bool = False) -> None:
        self.root = root
        self.serving_prefix = serving_prefix.rstrip("/")
        self.readonly = readonly

    def may_write(self, model: str | None = None) -> bool:
        """Whether this process publishes versions (of `model`) itself: it is not told not to, and could."""
        return not self.readonly and self.could_write(model)

    def could_write(self, model: str | None = None) -> bool:
        """Whether the folders let it, those that are there."""
        folders = [self.root]
        if model is not None:
            folders += [self.root / check_model_name(model), self.root / model / ".candidates"]
        return all(os.access(folder, os.W_OK) for folder in folders if folder.exists())

    def is_published(self, model: str, number: int) -> bool:
        return self.resolve(f"{check_model_name(model)}/{int(number)}").is_dir()

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
        if self.may_write(model):
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

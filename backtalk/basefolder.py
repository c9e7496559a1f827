"""The folder that a model is made from: one sub-folder a label, its images inside."""

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from backtalk.errors import BadFolder, RefusedImage
from backtalk.images import decode, perceptual_hash, pixels_digest, to_input
from backtalk.store import ImageStore

MAX_LABEL = 100


@dataclass(frozen=True)
class FoundFile:
    path: Path
    label: str


@dataclass(frozen=True)
class BaseImage:
    """One readable, distinct image of the folder, already in the image store."""

    path: Path
    label: str
    pixels_sha256: str
    perceptual_hash: int
    width: int
    height: int
    orientation: int
    store_key: str
    byte_size: int
    upright: bool  # as it came: JPEG or PNG without orientation, fit to be a golden image


@dataclass
class BaseFolder:
    """What reading the folder yields, filled in as it is read."""

    labels: list[str]
    files: list[FoundFile]
    images: list[BaseImage] = field(default_factory=list)
    skipped: list[tuple[Path, str]] = field(default_factory=list)  # with the reason
    repeated: int = 0  # files with pixels that came before, under the same label


def scan_folder(folder: Path) -> BaseFolder:
    """List a folder's labels and files.

    Raises:
        BadFolder: nothing that a classifier could be made from.
    """
    if not folder.is_dir():
        raise BadFolder(f"There is no folder {folder}.")
    subfolders = sorted(p for p in folder.iterdir() if p.is_dir() and not p.name.startswith("."))
    if not subfolders:
        raise BadFolder(f"{folder} has no sub-folders. Make one for each label, with its images inside.")
    labels = [p.name for p in subfolders]
    bad = [label for label in labels if not _is_label(label)]
    if bad:
        raise BadFolder(f"These names cannot be labels (up to {MAX_LABEL} printable characters): {bad}.")
    if len(labels) < 2:
        raise BadFolder(f"{folder} has one label only ({labels[0]}). A classifier needs two or more.")
    files = [
        FoundFile(path, sub.name)
        for sub in subfolders
        for path in sorted(sub.rglob("*"))
        if path.is_file() and not path.name.startswith(".")
    ]
    return BaseFolder(labels, files)


def _is_label(name: str) -> bool:
    return len(name) <= MAX_LABEL and name.isprintable() and name == name.strip()


def read_images(
    base: BaseFolder, store: ImageStore, input_size: int, *, max_bytes: int, max_pixels: int
) -> Iterator[NDArray[np.uint8]]:
    """Read every file into the store; yields (S, S, 3), uint8, for each image that counts.

    Unreadable files are skipped and listed. The same pixels under two labels are skipped too: nobody can say
    which is right.
    """
    seen: dict[str, str] = {}
    for file in base.files:
        try:
            data = file.path.read_bytes()
            picture = decode(data, max_bytes=max_bytes, max_pixels=max_pixels)
        except (RefusedImage, OSError) as error:
            base.skipped.append((file.path, getattr(error, "message", str(error))))
            continue
        digest = pixels_digest(picture.pixels)
        if digest in seen:
            if seen[digest] == file.label:
                base.repeated += 1
            else:
                base.skipped.append((file.path, f"the same picture lies under {seen[digest]!r} too"))
            continue
        seen[digest] = file.label
        height, width = picture.pixels.shape[:2]
        base.images.append(
            BaseImage(
                path=file.path,
                label=file.label,
                pixels_sha256=digest,
                perceptual_hash=perceptual_hash(picture.pixels),
                width=width,
                height=height,
                orientation=picture.orientation,
                store_key=store.put(digest, picture.data),
                byte_size=len(picture.data),
                upright=picture.orientation == 1 and picture.format in ("JPEG", "PNG"),
            )
        )
        yield to_input(picture.pixels, input_size)


def check_images(base: BaseFolder) -> None:
    """Raises BadFolder where a label was left without a readable image."""
    counts = dict.fromkeys(base.labels, 0)
    for image in base.images:
        counts[image.label] += 1
    empty = [label for label, count in counts.items() if not count]
    if len(empty) == len(base.labels):
        raise BadFolder("There is no readable image (JPEG, PNG or WebP) in the folder.")
    if empty:
        raise BadFolder(
            f"There is no readable image under {', '.join(empty)}. Add some, or remove the folder."
        )


def thin_out(kept: dict[int, NDArray[np.uint8]], base: BaseFolder, most: int) -> None:
    """Drop one picture of a label that has more than its part of `most`; keys are places in `base.images`."""
    each = max(2, most // len(base.labels))
    counts = Counter(base.images[i].label for i in kept)
    for i in list(kept):
        if counts[base.images[i].label] > each:
            del kept[i]
            return

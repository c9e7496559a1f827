"""What a full run learns from, as its parent wrote it down: `lesson.json` and `targets.npz`."""

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from backtalk.errors import InvalidInput, SnapshotUnusable
from backtalk.learn.feed import Rows
from backtalk.learn.head import weigh_labels
from backtalk.learn.pixelmap import PixelMap, Source, map_pixels
from backtalk.recipes import Recipe
from backtalk.store import ImageStore

FEWEST_OF_A_LABEL = 2  # training images


@dataclass(frozen=True, eq=False)
class Lesson:
    """Rows in one order: T training images, then V for validation, then M that are to stay right."""

    labels: tuple[str, ...]
    recipe: Recipe
    seed: int
    threads: int
    fence: int
    snapshot_digest: str
    start_backbone: Path
    store: Path
    images: ImageStore
    work: Path  # kept between attempts: pixels and checkpoints
    sources: tuple[Source, ...]  # T + V + M
    left_out: int  # images whose pixels are not kept
    board: Path | None  # where TensorBoard's logs go
    train_y: NDArray[np.int32]  # (T,)
    train_seen: NDArray[np.bool_]  # (T,)
    train_weight: NDArray[np.float32]  # (T,)
    validation_y: NDArray[np.int32]  # (V,)
    stay: NDArray[np.float32]  # (M, C): the champion's or the teachers' scores
    targets_digest: str  # of all the arrays here: labels, weights, what teachers say
    train_soft: NDArray[np.float32] | None = None  # (T, C): targets of a distillation

    @classmethod
    def read(cls, folder: Path) -> "Lesson":
        """Raises InvalidInput: it cannot be read, or lacks something."""
        try:
            stored: dict[str, Any] = json.loads((folder / "lesson.json").read_text(encoding="utf-8"))
            with np.load(folder / "targets.npz", allow_pickle=False) as arrays:
                targets = {name: arrays[name] for name in arrays.files}
            return cls(
                labels=tuple(stored["labels"]),
                recipe=Recipe.parse("of this run", stored["recipe"]),
                seed=stored["seed"],
                threads=stored["threads"],
                fence=stored["fence"],
                snapshot_digest=stored["snapshot_digest"],
                start_backbone=Path(stored["start_backbone"]),
                store=Path(stored["store"]),
                images=ImageStore(Path(stored["images"])),
                work=Path(stored["work"]),
                sources=tuple(Source(key, orientation) for key, orientation in stored["sources"]),
                left_out=stored["left_out"],
                board=Path(stored["board"]) if stored.get("board") else None,
                targets_digest=digest_arrays(targets),
                **targets,
            )
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise InvalidInput(f"{folder} holds no lesson that can be read: {error!r}") from None


def digest_arrays(arrays: Mapping[str, NDArray[Any]]) -> str:
    """SHA-256, in hexadecimal, over names, types, shapes and values. A file of them holds times, too."""
    digest = sha256()
    for name, array in sorted(arrays.items()):
        digest.update(f"{name} {array.dtype.str} {array.shape}\n".encode())
        digest.update(np.ascontiguousarray(array).tobytes())
    return digest.hexdigest()


def decode_pixels(lesson: Lesson, size: int, tell: Callable[..., None]) -> PixelMap:
    """Every image of the lesson, once, as the backbone takes it: `size` pixels a side."""
    tell("decode", 0.0)
    return map_pixels(
        lesson.work,
        lesson.snapshot_digest,
        size,
        lesson.sources,
        lesson.images,
        threads=lesson.threads,
        tell=lambda fraction: tell("decode", fraction),
    )


Validation = tuple[NDArray[np.int64], NDArray[np.int32]]  # rows of the pixel map, labels


def find_rows(lesson: Lesson, readable: NDArray[np.bool_]) -> tuple[Rows, Validation]:
    """What there is to learn, and what to stop by. Images that cannot be read are left out.

    Raises:
        SnapshotUnusable: a label has fewer than two training images.
    """
    count, held = len(lesson.train_y), len(lesson.validation_y)
    train = np.flatnonzero(readable[:count])
    validation = np.flatnonzero(readable[count : count + held])
    kept = lesson.train_y[train]
    check_labels(lesson.labels, kept)
    stay = np.flatnonzero(readable[count + held :]) if lesson.recipe.stay_right > 0 else np.zeros(0, np.int64)
    weights = _weigh(kept, lesson.recipe.class_weights, lesson.train_weight[train])
    # One of them weighs its share of a labelled image, and all together no more than those do.
    each = lesson.recipe.stay_right * weights.mean() * min(1.0, len(kept) / max(1, len(stay)))
    weights = np.concatenate([weights, np.full(len(stay), each)]).astype(np.float32)
    hard = np.eye(len(lesson.labels), dtype=np.float32)[kept]
    rows = Rows(
        pixels=np.concatenate([train, count + held + stay]).astype(np.int64),
        targets=np.concatenate(
            [hard if lesson.train_soft is None else lesson.train_soft[train], lesson.stay[stay]]
        ),
        weights=weights / weights.mean(),
        known=np.concatenate([lesson.train_seen[train], np.ones(len(stay), np.bool_)]),
    )
    return rows, ((count + validation).astype(np.int64), lesson.validation_y[validation])


def check_labels(labels: tuple[str, ...], train_y: NDArray[np.int32]) -> None:
    """Raises SnapshotUnusable: a label has fewer than two training images."""
    counts = np.bincount(train_y, minlength=len(labels))
    few = [f"{label!r} has {n}" for label, n in zip(labels, counts, strict=True) if n < FEWEST_OF_A_LABEL]
    if few:
        raise SnapshotUnusable(
            f"A full run needs {FEWEST_OF_A_LABEL} training images of each label whose pixels are kept: "
            f"{', '.join(few)}. Add images of it, or use a head run."
        )


def _weigh(labels: NDArray[np.int32], how: str, shares: NDArray[np.float32]) -> NDArray[np.float64]:
    """Of each image: its own share, as near-duplicates have one together, times what its label weighs."""
    if how == "none":
        return shares.astype(np.float64)
    if how == "sqrt":
        return weigh_labels(labels, shares).astype(np.float64)
    counts = np.bincount(labels, weights=shares)
    return np.asarray(counts.max() / counts[labels] * shares, np.float64)

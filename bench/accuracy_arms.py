"""What is measured: a head on the frozen backbone, a full run, its 8-bit copy, and a student that it taught.

Each goes the road of a run in service, without the database: a lesson folder, `finetune.tune`, the backbone
from the store in LiteRT, `fit_head`. The test quarter is embedded and scored; nothing is fitted to it,
stopped by it or chosen by it.
"""

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from time import monotonic
from typing import Any

import numpy as np
from numpy.typing import NDArray

from backtalk.heads import Head
from backtalk.images import decode, pixels_digest
from backtalk.learn.head import fit_head
from backtalk.learn.held_out import HeadData
from backtalk.recipes import Recipe
from backtalk.store import ImageStore
from bench.accuracy_embeddings import embed_cells, prepare
from bench.accuracy_split import Split, draw_split, number_labels
from demo.cells import LABELS, Cell

ARMS = ("head", "full", "int8", "student")

Tell = Callable[..., None]


@dataclass(frozen=True)
class Settings:
    """What the results of an arm depend on, beside its seed."""

    backbone: str
    input_size: int | None  # side of its images; the architecture's own if none
    weights: str | None  # a file, or `random`; ImageNet's if none
    recipes: dict[str, Recipe]  # by arm; the head needs none
    threads: int

    def describe(self, arm: str) -> dict[str, Any]:
        """All of it that `arm` depends on, as JSON has it; results of other settings do not count."""
        needed = {"head": (), "full": ("full",), "int8": ("full", "int8"), "student": ("full", "student")}[
            arm
        ]
        return {
            "backbone": [self.backbone, self.input_size, self.weights],
            "recipes": {name: self.recipes[name].model_dump(mode="json") for name in needed},
            "threads": self.threads,
        }


class School:
    """One seed's split of the cells, with a folder of its own below a store that all seeds share."""

    def __init__(self, cells: Sequence[Cell], root: Path, seed: int, settings: Settings, tell: Tell) -> None:
        self._cells, self._seed, self._settings, self._tell = cells, seed, settings, tell
        self._root, self._store = root, root / "store"
        self._images = ImageStore(root / "images")
        self._folder = root / f"seed-{seed}"
        self._split: Split = draw_split(cells, seed)
        self._labels = number_labels(cells)

    def run(self, arm: str) -> dict[str, Any]:
        """Train what `arm` names and ask it about the test quarter; the full run must have been made before.

        Raises:
            WeightsRefused, InvalidInput, TrainingDiverged, OutOfRoom: as full runs do.
        """
        began = monotonic()
        made: dict[str, Any] = {}
        if arm == "head":
            digest = self._prepare(self._settings.backbone, self._settings.input_size, self._settings.weights)
        else:
            made = self._tune(arm)
            digest = made["backbone"]["digest"]
        head, embeddings = self._fit(digest)
        self._keep(arm, head)
        seconds = round(monotonic() - began, 1)
        return self._judge(head, embeddings) | {"seconds": seconds, "tuning": made.get("tuning")}

    # --- backbones --------------------------------------------------------------------------------
    def _prepare(self, name: str, input_size: int | None, weights: str | None) -> str:
        return prepare(self._root / "store", name, input_size, weights)

    def _tune(self, arm: str) -> dict[str, Any]:
        from backtalk.learn.finetune import tune

        return tune(self._write_lesson(arm), self._tell, lambda: False)

    def _find_start(self, arm: str) -> str:
        recipe = self._settings.recipes[arm]
        if recipe.distil is not None:
            return self._prepare(recipe.distil.student, recipe.distil.input_size, recipe.distil.weights)
        if arm == "int8":
            return self._find_teacher().backbone_digest
        return self._prepare(self._settings.backbone, self._settings.input_size, self._settings.weights)

    def _find_teacher(self) -> Head:
        return Head.load(self._folder / "full.npz")

    def _keep(self, arm: str, head: Head) -> None:
        self._folder.mkdir(parents=True, exist_ok=True)
        head.save(self._folder / f"{arm}.npz")

    # --- lessons ----------------------------------------------------------------------------------
    def _write_lesson(self, arm: str) -> Path:
        """As `backtalk.lessonfiles` writes it: training images, then validation; nothing else is shown."""
        recipe = self._settings.recipes[arm]
        train, validation = self._split.train, self._split.validation
        if recipe.method == "quantise":
            train, validation = self._draw_evenly(recipe.quantise.images), validation[:0]
        folder = self._folder / f"lesson-{arm}"
        folder.mkdir(parents=True, exist_ok=True)
        targets: dict[str, Any] = {
            "train_y": self._labels[train],
            "train_seen": np.zeros(len(train), np.bool_),
            "train_weight": np.ones(len(train), np.float32),
            "validation_y": self._labels[validation],
            "stay": np.zeros((0, len(LABELS)), np.float32),
        }
        if recipe.distil is not None:
            targets["train_soft"] = self._ask_teacher(train, recipe.distil.share)
        np.savez(folder / "targets.npz", **targets)
        places = np.concatenate([train, validation])
        content = {
            "labels": list(LABELS),
            "recipe": recipe.model_dump(mode="json"),
            "seed": self._seed,
            "threads": self._settings.threads,
            "fence": 1,
            "snapshot_digest": f"{self._seed:064x}",
            "start_backbone": str(self._store / "_backbones" / self._find_start(arm)),
            "store": str(self._store),
            "images": str(self._images.root),
            "work": str(self._folder / f"work-{arm}"),
            "sources": [self._put(self._cells[place]) for place in places.tolist()],
            "left_out": 0,
        }
        (folder / "lesson.json").write_text(json.dumps(content), encoding="utf-8")
        return folder

    def _put(self, cell: Cell) -> list[Any]:
        picture = decode(cell.read())
        return [self._images.put(pixels_digest(picture.pixels), picture.data), picture.orientation]

    def _draw_evenly(self, most: int) -> NDArray[np.int64]:
        """Training cells of each label in turn."""
        labels = self._labels[self._split.train]
        turn = np.array([np.count_nonzero(labels[:i] == label) for i, label in enumerate(labels)])
        return self._split.train[np.argsort(turn, kind="stable")][:most]

    def _ask_teacher(self, places: NDArray[np.int64], share: float) -> NDArray[np.float32]:
        """(T, C): the label, and the full run's scores by their share."""
        head = self._find_teacher()
        said = head.scores(self._embed(head.backbone_digest)[places])
        hard = np.eye(len(LABELS), dtype=np.float32)[self._labels[places]]
        return ((1 - share) * hard + share * said).astype(np.float32)

    # --- heads ------------------------------------------------------------------------------------
    def _embed(self, digest: str) -> NDArray[np.float16]:
        threads = self._settings.threads
        return embed_cells(self._cells, self._root, digest, threads, lambda n: self._tell("embed", n))

    def _fit(self, digest: str) -> tuple[Head, NDArray[np.float16]]:
        embeddings = self._embed(digest)
        train, validation = self._split.train, self._split.validation
        data = HeadData(
            train_x=embeddings[train],
            train_y=self._labels[train],
            validation_x=embeddings[validation],
            validation_y=self._labels[validation],
            stay_x=embeddings[:0],
            train_seen=np.zeros(len(train), np.bool_),
            train_weight=np.ones(len(train), np.float32),
        )
        fitted = fit_head(data, LABELS, digest, None, self._seed, lambda share: self._tell("fit", share))
        return fitted.head, embeddings

    def _judge(self, head: Head, embeddings: NDArray[np.float16]) -> dict[str, Any]:
        """Shares of right answers: of the test quarter, its labels and kinds of module; and of validation."""
        right = head.logits(embeddings).argmax(axis=1) == self._labels
        test = self._split.test
        modules = np.array([cell.module for cell in self._cells])
        truth = np.array([cell.label for cell in self._cells])
        of = {name: right[test][truth[test] == name] for name in LABELS}
        of |= {name: right[test][modules[test] == name] for name in ("mono", "poly")}
        return {
            "accuracy": float(right[test].mean()),
            "validation_accuracy": float(right[self._split.validation].mean()),
            "of": {name: float(values.mean()) for name, values in of.items()},
            "counts": {name: len(getattr(self._split, name)) for name in ("train", "validation", "test")},
            "backbone_digest": head.backbone_digest,
        }

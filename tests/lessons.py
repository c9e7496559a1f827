"""Lessons for real full runs: digits at 32 pixels, the tiny backbone, and stores of their own."""

import json
import os
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from backtalk.images import decode, pixels_digest
from backtalk.store import ImageStore
from tests.acceptance.digits import LABELS, Digits

RECIPE = {
    "epochs": 3,
    "batch_size": 16,
    "learning_rate": 0.01,
    "patience": 0,
    "checkpoint_s": 0,
    "mixup": 0.2,
    "stay_right": 0.5,
    "replay": 0.5,
}


@dataclass(frozen=True)
class School:
    """A store with the tiny backbone, and digits in an image store."""

    root: Path
    backbone: str
    sources: list[list[Any]]
    labels: np.ndarray

    @classmethod
    def set_up(cls, root: Path, backbone_folder: Path, count: int = 100) -> "School":
        shutil.copytree(backbone_folder, root / "store" / "_backbones" / backbone_folder.name)
        images = ImageStore(root / "images")
        digits = Digits().take(count, inverted=False)
        sources = [[images.put(pixels_digest(decode(d.png).pixels), d.png), 1] for d in digits]
        labels = np.array([LABELS.index(d.label) for d in digits], np.int32)
        return cls(root, backbone_folder.name, sources, labels)

    @property
    def store(self) -> Path:
        return self.root / "store"

    def write_lesson(self, name: str, *, fence: int = 1, **values: Any) -> Path:
        """60 images to train on, 24 to stop by, the rest to stay right. One `name` is one run."""
        folder = self.root / "lessons" / f"{name}-{fence}"
        folder.mkdir(parents=True)
        recipe = RECIPE | values.pop("recipe", {})
        lesson = {
            "labels": list(LABELS),
            "recipe": recipe,
            "seed": 7,
            "threads": 1,
            "fence": fence,
            "snapshot_digest": "5" * 64,
            "start_backbone": str(self.store / "_backbones" / self.backbone),
            "store": str(self.store),
            "images": str(self.root / "images"),
            "work": str(self.root / "work" / name),
            "sources": self.sources,
            "left_out": 0,
        }
        targets = {
            "train_y": self.labels[:60],
            "train_seen": np.arange(60) < 30,
            "train_weight": np.ones(60, np.float32),
            "validation_y": self.labels[60:84],
            "stay": np.eye(2, dtype=np.float32)[self.labels[84:]] * 0.8 + 0.1,
        }
        given = {key: values.pop(key) for key in list(values) if isinstance(values[key], np.ndarray)}
        np.savez(folder / "targets.npz", **(targets | given))
        (folder / "lesson.json").write_text(json.dumps(lesson | values))
        return folder

    def weights(self, digest: str) -> dict[str, np.ndarray]:
        with np.load(self.store / "_backbones" / digest / "weights.npz") as stored:
            return {name: stored[name] for name in stored.files}


def tell_nobody(*_: Any, **__: Any) -> None:
    return


def attend(lesson: Path, kill_at: int | None = None) -> None:
    """One attempt, in this process; `kill_at`: dies as by SIGKILL right after that step of the attempt."""
    import signal

    from backtalk.learn import finetune

    steps = 0

    def count(part: str, *_: Any, **more: Any) -> None:
        nonlocal steps
        if part == "tune" and "step" in more:
            steps += 1
            if steps == kill_at:
                os.kill(os.getpid(), signal.SIGKILL)

    result = finetune.tune(lesson, count, lambda: False)
    (lesson / "result.json").write_text(json.dumps(result))

"""Jobs for real trainers: digits, the tiny backbone, and a store of their own."""

import json
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from backtalk.golden import write_golden
from backtalk.images import decode, to_input
from backtalk.runtime import Backbone
from tests.acceptance.digits import LABELS, Digits


@dataclass(frozen=True)
class Bench:
    """A store with a backbone, golden images, and embedded digits to learn from."""

    store: Path
    backbone: Backbone
    embeddings: np.ndarray
    labels: np.ndarray

    @classmethod
    def set_up(cls, store: Path, backbone_folder: Path, count: int = 240) -> "Bench":
        target = store / "_backbones" / backbone_folder.name
        shutil.copytree(backbone_folder, target)
        backbone = Backbone(target, 2)
        digits = Digits().take(count, inverted=False)
        inputs = np.stack([to_input(decode(digit.png).pixels, backbone.input_size) for digit in digits])
        write_golden(
            store / "m" / ".golden" / "golden.npz", inputs[:20], [digit.png for digit in digits[:20]]
        )
        labels = np.array([LABELS.index(digit.label) for digit in digits], np.int32)
        return cls(store, backbone, backbone.embed(inputs), labels)

    @property
    def golden(self) -> Path:
        return self.store / "m" / ".golden" / "golden.npz"

    def artefact(self, name: str) -> Path:
        return self.store / "m" / ".candidates" / name

    def write_job(
        self,
        name: str,
        *,
        repeat: int = 1,
        champion: Path | None = None,
        board: Path | None = None,
        **data: Any,
    ) -> Path:
        """A job of 160 training and 40 validation images; `repeat` makes it longer."""
        folder = self.store / ".jobs" / name
        folder.mkdir(parents=True)
        values = {
            "train_x": np.tile(self.embeddings[:160], (repeat, 1)),
            "train_y": np.tile(self.labels[:160], repeat),
            "validation_x": self.embeddings[160:200],
            "validation_y": self.labels[160:200],
            "stay_x": self.embeddings[200:],
            "train_seen": np.full(160 * repeat, champion is not None),
            "train_weight": np.ones(160 * repeat, np.float32),
        }
        np.savez(folder / "data.npz", **(values | data))
        job = {
            "model": "m",
            "run_id": "01930000-0000-7000-8000-000000000001",
            "version": 2,
            "parent_version": 1,
            "labels": list(LABELS),
            "backbone_digest": self.backbone.digest,
            "store": str(self.store),
            "champion_head": str(champion) if champion else None,
            "seed": 7,
            "snapshot_digest": "5" * 64,
            "artefact": str(self.artefact(name)),
            "golden": str(self.golden),
            "board": str(board) if board else None,
        }
        (folder / "job.json").write_text(json.dumps(job))
        return folder

    def verify_command(self, name: str, artefact_digest: str) -> dict[str, str]:
        return {
            "do": "verify",
            "artefact": str(self.artefact(name)),
            "artefact_digest": artefact_digest,
            "golden": str(self.golden),
            "store": str(self.store),
        }

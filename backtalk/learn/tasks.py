"""What a trainer can be asked to do; each takes and gives what JSON can hold."""

import json
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from time import monotonic
from typing import Any

import numpy as np

from backtalk.errors import InvalidInput
from backtalk.failpoints import failpoint
from backtalk.golden import read_golden
from backtalk.heads import Head
from backtalk.learn.backbones import load_embedder, prepare_backbone
from backtalk.learn.boards import Board
from backtalk.learn.export import write_artefact
from backtalk.learn.head import Fitted, fit_head
from backtalk.learn.held_out import HeadData
from backtalk.learn.verify import verify_artefact

Tell = Callable[[str, float], None]  # which part, and which fraction of it is done


def warm(store: Path, backbone_digest: str) -> dict[str, Any]:
    """Load a backbone before it is needed."""
    load_embedder(store / "_backbones" / backbone_digest)
    return {"backbone_digest": backbone_digest}


def prepare(
    name: str, store: Path, input_size: int | None, weights: str | None, tell: Tell
) -> dict[str, Any]:
    """Put a backbone into the store, unless it is there."""
    tell("backbone", 0.0)
    prepared = asdict(prepare_backbone(name, store, input_size, weights))
    del prepared["name"]
    return prepared


@dataclass(frozen=True)
class Job:
    """`job.json`, which the parent wrote beside `data.npz`."""

    model: str
    run_id: str
    version: int
    parent_version: int | None
    labels: tuple[str, ...]
    backbone_digest: str
    store: Path
    champion_head: Path | None
    seed: int
    snapshot_digest: str
    artefact: Path
    golden: Path
    tuning: dict[str, Any] | None  # of a full run: how its backbone was moved
    board: Path | None  # where TensorBoard's logs go
    saved_model: Path | None  # of an 8-bit version: its parent's folder

    @classmethod
    def read(cls, folder: Path) -> "Job":
        """Raises InvalidInput: it cannot be read, or lacks something."""
        try:
            stored = json.loads((folder / "job.json").read_text(encoding="utf-8"))
            champion = stored["champion_head"]
            return cls(
                model=stored["model"],
                run_id=stored["run_id"],
                version=stored["version"],
                parent_version=stored["parent_version"],
                labels=tuple(stored["labels"]),
                backbone_digest=stored["backbone_digest"],
                store=Path(stored["store"]),
                champion_head=Path(champion) if champion else None,
                seed=stored["seed"],
                snapshot_digest=stored["snapshot_digest"],
                artefact=Path(stored["artefact"]),
                golden=Path(stored["golden"]),
                tuning=stored.get("tuning"),
                board=Path(stored["board"]) if stored.get("board") else None,
                saved_model=Path(stored["saved_model"]) if stored.get("saved_model") else None,
            )
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise InvalidInput(f"{folder} holds no job that can be read: {error!r}") from None


def read_data(folder: Path) -> HeadData:
    """`data.npz` of a job."""
    with np.load(folder / "data.npz", allow_pickle=False) as stored:
        return HeadData(
            train_x=stored["train_x"],
            train_y=stored["train_y"],
            validation_x=stored["validation_x"],
            validation_y=stored["validation_y"],
            stay_x=stored["stay_x"],
            train_seen=stored["train_seen"],
            train_weight=stored["train_weight"],
        )


def fit(folder: Path, tell: Tell) -> dict[str, Any]:
    """Fit a head and write its artefact."""
    started = monotonic()
    job = Job.read(folder)
    champion = Head.load(job.champion_head) if job.champion_head else None
    data = read_data(folder)
    read_done = monotonic()
    failpoint("trainer.before_fit")
    fitted = fit_head(
        data, job.labels, job.backbone_digest, champion, job.seed, lambda fraction: tell("fit", fraction)
    )
    fit_done = monotonic()
    failpoint("trainer.after_fit")
    _write_board(job, data, fitted)
    tell("export", 0.0)
    artefact_digest = _export(job, fitted)
    tell("export", 1.0)
    return {
        "artefact_digest": artefact_digest,
        "chosen": asdict(fitted.chosen),
        "counts": fitted.counts,
        "validation": fitted.validation,
        "seconds": {
            "read": round(read_done - started, 3),
            "fit": round(fit_done - read_done, 3),
            "export": round(monotonic() - fit_done, 3),
        },
    }


def _write_board(job: Job, data: HeadData, fitted: Fitted) -> None:
    """How the head does on the validation images. The version's number is the step."""
    if job.board is None:
        return
    board = Board(job.board)
    board.scalars({f"head/{name}": value for name, value in fitted.validation.items()}, job.version)
    board.scalars({f"head/chosen_{name}": v for name, v in asdict(fitted.chosen).items()}, job.version)
    board.text("head", {"labels": job.labels, "counts": fitted.counts}, job.version)
    if len(data.validation_y):
        found = fitted.head.logits(data.validation_x).argmax(axis=1)
        board.confusion(job.labels, data.validation_y, found, job.version)
    embeddings = np.concatenate([data.validation_x, data.train_x])
    board.project(embeddings, [job.labels[y] for y in np.concatenate([data.validation_y, data.train_y])])
    board.close()


def _export(job: Job, fitted: Fitted) -> str:
    card = {
        "model": job.model,
        "version": job.version,
        "run": job.run_id,
        "parent": job.parent_version,
        "labels": list(job.labels),
        "backbone_digest": job.backbone_digest,
        "snapshot_digest": job.snapshot_digest,
        "seed": job.seed,
        "chosen": asdict(fitted.chosen),
        "counts": fitted.counts,
        "validation": fitted.validation,
    }
    if job.tuning is not None:
        card["tuning"] = job.tuning
    if job.saved_model is not None:
        card["saved_model_of_version"] = job.parent_version
    embedder = load_embedder(job.store / "_backbones" / job.backbone_digest)
    return write_artefact(
        job.artefact,
        head=fitted.head,
        embedder=embedder,
        golden=read_golden(job.golden).fit(embedder.input_size),
        model=job.model,
        card=card,
        parent=job.saved_model,
    )


def verify(command: dict[str, Any], tell: Tell) -> dict[str, Any]:
    """Verify an artefact that another process wrote."""
    tell("verify", 0.0)
    return verify_artefact(
        Path(command["artefact"]),
        command["artefact_digest"],
        Path(command["golden"]),
        Path(command["store"]),
    )

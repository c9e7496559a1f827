"""A full run's hours: the head first, then the backbone under it. Killed at any step, it can be resumed."""

import errno
import math
import os
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from time import monotonic
from typing import Any, NoReturn

import numpy as np

from backtalk.errors import OutOfRoom, TrainingDiverged
from backtalk.failpoints import failpoint
from backtalk.heads import Head
from backtalk.learn.backbones import load_model, put_tuned
from backtalk.learn.boards import Board
from backtalk.learn.checkpoints import Arrays, Checkpoint, Checkpoints
from backtalk.learn.feed import Feed, count_steps, plain_batches, share_memory
from backtalk.learn.flow import tf
from backtalk.learn.head import fit_head
from backtalk.learn.held_out import HeadData
from backtalk.learn.learner import Learner, rate_at
from backtalk.learn.lesson import Lesson, decode_pixels, find_rows
from backtalk.learn.logistic import log_losses
from backtalk.learn.memory import read_memory_mb
from backtalk.learn.pixelmap import Pixels
from backtalk.learn.quantise import quantise
from backtalk.learn.standing import Pace, Standing

FEWEST_VALIDATION = 20  # images; with fewer, nothing stops early

Tell = Callable[..., None]


def tune(folder: Path, tell: Tell, is_stopping: Callable[[], bool]) -> dict[str, Any]:
    """Move a backbone as the job in `folder` says, and put it into the store.

    Raises:
        TrainingDiverged: the loss is no number any more.
        OutOfRoom: the disk is full, or the memory that the recipe allows does not suffice.
        SnapshotUnusable: too few images can still be read.
    """
    lesson = Lesson.read(folder)
    prepare_tensorflow(lesson)
    work = quantise if lesson.recipe.method == "quantise" else _tune
    try:
        return work(lesson, tell, is_stopping)
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT):
            raise
        raise OutOfRoom("The disk is full. Make room, then ask for the run again.") from None
    except tf.errors.ResourceExhaustedError:
        raise OutOfRoom("The device has too little memory for this run: lower `batch_size`.") from None


def _tune(lesson: Lesson, tell: Tell, is_stopping: Callable[[], bool]) -> dict[str, Any]:
    return _Tuning(lesson, tell, is_stopping).run()


def prepare_tensorflow(lesson: Lesson) -> None:
    """Before the first operation: as many threads as the run began with, and the same bits each time."""
    tf.config.threading.set_intra_op_parallelism_threads(lesson.threads)
    tf.config.threading.set_inter_op_parallelism_threads(2)
    for device in tf.config.list_physical_devices("GPU"):
        tf.config.experimental.set_memory_growth(device, True)
    if lesson.recipe.deterministic:
        tf.config.experimental.enable_op_determinism()


class _Tuning:
    """One attempt."""

    def __init__(self, lesson: Lesson, tell: Tell, is_stopping: Callable[[], bool]) -> None:
        self._lesson, self._recipe = lesson, lesson.recipe
        self._tell, self._is_stopping = tell, is_stopping
        self._standing = Standing()
        self._best: Arrays = {}
        self._pace = Pace()
        self._board = Board(lesson.board)

    def run(self) -> dict[str, Any]:
        started = monotonic()
        lesson = self._lesson
        model, described = load_model(lesson.start_backbone)
        mapped = decode_pixels(lesson, described.input_size, self._tell)
        self._pixels: Pixels = mapped.open()
        self._shared = share_memory(self._pixels)
        self._rows, self._validation = find_rows(lesson, mapped.readable)
        left_out = int((~mapped.readable).sum()) + lesson.left_out
        tell_facts = {"left_out": left_out, "device": _device(), "threads": lesson.threads}
        self._tell("tune", 0.0, tuning=tell_facts | {"memory_mb": read_memory_mb()})
        self._checkpoints = Checkpoints(lesson.work / "checkpoints", lesson.fence, self._identify())
        self._learner = self._begin(model)
        self._per_epoch = count_steps(self._rows, self._recipe)
        self._learn()
        seconds = monotonic() - started
        self._finish()
        self._tell("export", 0.0, **self._standing.tell_epochs())
        prepared = put_tuned(lesson.store, model, described.name)
        self._tell("export", 1.0)
        return {"backbone": asdict(prepared), "tuning": tell_facts | self._describe(seconds)}

    def _identify(self) -> dict[str, Any]:
        """What a checkpoint must agree with, to be one of this training."""
        lesson = self._lesson
        return {
            "seed": lesson.seed,
            "snapshot_digest": lesson.snapshot_digest,
            "start_backbone": lesson.start_backbone.name,
            "recipe": self._recipe.model_dump(mode="json"),
            "targets": lesson.targets_digest,
            "rows": self._rows.pixels.tolist(),
            "labels": list(lesson.labels),
            "threads": lesson.threads,
            "tensorflow": tf.__version__,
        }

    # --- the head first ---------------------------------------------------------------------------
    def _begin(self, model: Any) -> Learner:
        """Linear probing, then fine-tuning (Kumar et al., 2022); or go on where an attempt was cut off."""
        learner = Learner(model, len(self._lesson.labels), self._recipe)
        found = self._checkpoints.find_newest()
        if found is None:
            head = self._fit_head_first(learner)
            temperature = np.float32(head.temperature)
            learner.put_head(head.weights / temperature, head.bias / temperature)
            return learner
        learner.restore(found.arrays)
        self._standing = Standing(**found.state)
        self._best = {n[5:]: a for n, a in found.arrays.items() if n.startswith("best/")}
        return learner

    def _fit_head_first(self, learner: Learner) -> Head:
        labelled = np.flatnonzero(self._rows.pixels < len(self._lesson.train_y))
        train, (held, truth) = self._rows.pixels[labelled], self._validation
        everything = np.concatenate([train, held])
        parts = []
        for batch in plain_batches(self._shared, everything, self._recipe.batch_size):
            parts.append(learner.embed(batch).astype(np.float16))
            self._tell("head", len(parts) * self._recipe.batch_size / max(1, len(everything)))
            self._stop_if_asked(save=False)
        found = np.concatenate(parts)
        data = HeadData(
            train_x=found[: len(train)],
            train_y=self._lesson.train_y[train],
            validation_x=found[len(train) :],
            validation_y=truth,
            stay_x=found[:0],
            train_seen=np.zeros(len(train), np.bool_),
            train_weight=self._lesson.train_weight[train],
        )
        return fit_head(data, self._lesson.labels, "0" * 64, None, self._lesson.seed).head

    # --- then all of it ---------------------------------------------------------------------------
    def _learn(self) -> None:
        standing, recipe = self._standing, self._recipe
        feed = Feed(self._pixels, self._rows, recipe, self._lesson.seed, self._lesson.threads)
        self._saved_at = monotonic()
        while standing.epoch < recipe.epochs and not self._is_spent():
            self._learn_epoch(feed)
            self._close_epoch()
            self._save()

    def _is_spent(self) -> bool:
        return 0 < self._recipe.patience <= self._standing.bad_epochs

    def _learn_epoch(self, feed: Feed) -> None:
        standing, recipe = self._standing, self._recipe
        total = self._per_epoch * recipe.epochs
        first = standing.step - standing.epoch * self._per_epoch
        batches = feed.epoch(standing.epoch, first)
        for _ in range(first, self._per_epoch):
            began = monotonic()
            batch = next(batches)
            got = monotonic()
            rate = rate_at(standing.step, total, self._per_epoch, recipe)
            loss = self._learner.learn(*batch, rate)
            self._pace.note_step(got - began, monotonic() - got)
            standing.step += 1
            if not math.isfinite(loss):
                self._diverge()
            standing.first_loss = loss if standing.first_loss is None else standing.first_loss
            self._board.scalars({"tune/loss": loss, "tune/learning_rate": rate}, standing.step)
            self._after_step(loss, total)

    def _after_step(self, loss: float, total: int) -> None:
        standing, recipe = self._standing, self._recipe
        failpoint("trainer.after_step")
        self._stop_if_asked(save=True)
        if monotonic() - self._saved_at >= recipe.checkpoint_s:
            self._save()
        self._tell(
            "tune",
            standing.step / total,
            epoch=standing.epoch + 1,
            epochs=recipe.epochs,
            step=standing.step,
            steps=total,
            loss=round(loss, 4),
            time_left_s=self._pace.foresee_s(total - standing.step),
            **standing.tell_epochs(),
        )
        used = read_memory_mb()
        if recipe.memory_mb is not None and used > recipe.memory_mb:
            raise OutOfRoom(
                f"The run uses {used} MB of memory, and its recipe allows {recipe.memory_mb}. Lower "
                "`batch_size`, or raise `memory_mb`."
            )

    def _close_epoch(self) -> None:
        """Ask the validation images, which the gate never sees, and keep the best weights."""
        standing = self._standing
        standing.epoch += 1
        told: dict[str, Any] = {"epoch": standing.epoch}
        rows, truth = self._validation
        if len(rows) >= FEWEST_VALIDATION:
            batches = plain_batches(self._shared, rows, self._recipe.batch_size)
            values = np.concatenate([self._learner.logits(batch) for batch in batches])
            loss = float(log_losses(values, truth).mean())
            if not math.isfinite(loss):
                self._diverge()
            told |= {"log_loss": round(loss, 5), "accuracy": float((values.argmax(axis=1) == truth).mean())}
            if standing.best_loss is None or loss < standing.best_loss:
                standing.best_loss, standing.best_epoch, standing.bad_epochs = loss, standing.epoch, 0
                self._best = self._learner.weights()
            else:
                standing.bad_epochs += 1
        standing.history.append(told)
        scalars = {f"validation/{name}": told.get(name) for name in ("log_loss", "accuracy")}
        self._board.scalars(scalars, standing.step)

    def _save(self) -> None:
        best = {f"best/{name}": array for name, array in self._best.items()}
        checkpoint = Checkpoint(self._standing.step, self._learner.state() | best, asdict(self._standing))
        self._checkpoints.save(checkpoint)
        self._saved_at = monotonic()

    def _stop_if_asked(self, *, save: bool) -> None:
        if self._is_stopping():
            if save:
                self._save()
            _leave()

    def _finish(self) -> None:
        self._board.close()
        if self._best:
            self._learner.restore(self._best)
        elif not all(np.isfinite(array).all() for array in self._learner.weights().values()):
            self._diverge()  # by the very last step, with too few validation images to show it

    def _diverge(self) -> NoReturn:
        standing = self._standing
        epoch = math.ceil(standing.step / self._per_epoch)
        raise TrainingDiverged(
            f"The loss was no number at step {standing.step}, epoch {epoch}. "
            "Lower `learning_rate` in the recipe, or look for odd images."
        )

    def _describe(self, seconds: float) -> dict[str, Any]:
        return {
            "epochs": self._standing.epoch,
            "steps": self._standing.step,
            "best_epoch": self._standing.best_epoch,
            "history": self._standing.history,
            "images": len(self._rows),
            "validation": len(self._validation[0]),
            "input_wait": self._pace.input_wait,
            "seconds": round(seconds, 1),
            "memory_mb": read_memory_mb(peak=True),
        }


def _device() -> str:
    found = tf.config.list_logical_devices("GPU")
    return str(found[0].name) if found else "CPU"


def _leave() -> NoReturn:
    os._exit(os.EX_TEMPFAIL)

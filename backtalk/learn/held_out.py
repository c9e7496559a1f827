"""What a head is fitted to, and the held-out images that choose between heads."""

from dataclasses import dataclass
from typing import Self

import numpy as np
from numpy.typing import NDArray

from backtalk.errors import SnapshotUnusable
from backtalk.heads import Head
from backtalk.learn.logistic import Floats, Parameters, Scaler, find_temperature, log_losses, logits

ENOUGH_VALIDATION = 200  # images; with fewer, out-of-fold scores choose
FOLDS = 5

Rows = NDArray[np.bool_]


@dataclass(frozen=True, eq=False)
class HeadData:
    """Embeddings (N, D) float16 and labels (N,) int32, as indices into the label list."""

    train_x: NDArray[np.float16]
    train_y: NDArray[np.int32]
    validation_x: NDArray[np.float16]
    validation_y: NDArray[np.int32]
    stay_x: NDArray[np.float16]  # (M, D): recorded images that nobody complained about
    train_seen: Rows  # (N,): the champion was fitted to it, so how it does there proves nothing
    train_weight: Floats  # (N,): 1, or less where near-duplicates share it

    def check(self, labels: tuple[str, ...]) -> None:
        """Raises SnapshotUnusable: fewer than two labels have a training image, or a value makes no sense."""
        if len(set(self.train_y.tolist())) < 2:
            raise SnapshotUnusable("A head needs training images of at least two labels.")
        for x, y in ((self.train_x, self.train_y), (self.validation_x, self.validation_y)):
            if len(x) != len(y) or not np.isin(y, np.arange(len(labels))).all():
                raise SnapshotUnusable("The snapshot's labels do not fit its images, or the model's labels.")
        if len(self.train_weight) != len(self.train_y) or not (self.train_weight > 0).all():
            raise SnapshotUnusable("Each training image needs a weight above zero.")
        if not all(np.isfinite(x).all() for x in (self.train_x, self.validation_x, self.stay_x)):
            raise SnapshotUnusable("The snapshot holds embeddings that are no numbers.")


@dataclass(frozen=True, eq=False)
class Folds:
    """Which fit leaves out which image. With enough validation images there is one, which leaves out none."""

    train: NDArray[np.int8]  # (N,): the fit that leaves this training image out; −1: none does
    validation: NDArray[np.int8]  # (V,): the fit that scores this validation image; none is fitted to it

    @classmethod
    def deal(cls, data: HeadData, seed: int) -> Self:
        if len(data.validation_y) >= ENOUGH_VALIDATION:
            return cls(np.full(len(data.train_y), -1, np.int8), np.zeros(len(data.validation_y), np.int8))
        generator = np.random.default_rng(seed)
        return cls(_deal(data.train_y, generator), _deal(data.validation_y, generator))

    @property
    def count(self) -> int:
        return FOLDS if (self.train >= 0).any() else 1


def _deal(labels: NDArray[np.int32], generator: np.random.Generator) -> NDArray[np.int8]:
    """Shuffled, then dealt out label by label, so that folds resemble each other."""
    order = generator.permutation(len(labels))
    order = order[np.argsort(labels[order], kind="stable")]
    folds = np.empty(len(labels), np.int8)
    folds[order] = np.arange(len(labels)) % FOLDS
    return folds


@dataclass(frozen=True, eq=False)
class HeldOut:
    """K images with the logits of heads that were not fitted to them."""

    features: Floats  # (K, D), standardised
    labels: NDArray[np.int32]  # (K,)
    fold: NDArray[np.int8]  # (K,): which fit scores it
    unseen: Rows  # (K,): nor was the champion fitted to it
    champion: Floats | None  # (K, C)

    @classmethod
    def gather(cls, data: HeadData, folds: Folds, scaler: Scaler, champion: Head | None) -> Self:
        """The validation images, and the training images that a fold leaves out."""
        left_out = folds.train >= 0
        embeddings = np.concatenate([data.validation_x, data.train_x[left_out]])
        validation = np.ones(len(data.validation_y), np.bool_)
        return cls(
            features=scaler.apply(embeddings),
            labels=np.concatenate([data.validation_y, data.train_y[left_out]]),
            fold=np.concatenate([folds.validation, folds.train[left_out]]),
            unseen=np.concatenate([validation, ~data.train_seen[left_out]]),
            champion=champion.logits(embeddings) if champion else None,
        )

    def score(self, fits: list[Parameters]) -> Floats:
        """Logits (K, C), each row by the fit that was not fitted to it."""
        out = np.empty((len(self.labels), fits[0].shape[1]), np.float32)
        for number, parameters in enumerate(fits):
            rows = self.fold == number
            out[rows] = logits(self.features[rows], parameters)
        return out

    def costs(self, scored: Floats, rows: Rows | None = None) -> NDArray[np.float64]:
        """Log loss of each image at the temperature that suits these logits best, so that only their
        direction is compared."""
        kept = np.ones_like(self.unseen) if rows is None else rows
        scored, labels = scored[kept], self.labels[kept]
        return log_losses(scored, labels, find_temperature(scored, labels))

"""The linear part of a version: reads an embedding, answers with a score for each label."""

import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import Self

import numpy as np
from numpy.typing import NDArray

from backtalk.errors import ArtefactInvalid

_CHUNK = 2**18  # products held at once, float32: 1 MiB stays in the cache


@dataclass(frozen=True, eq=False)
class Head:
    """softmax((weights · embedding + bias) ÷ temperature). Standardisation is folded into the weights."""

    weights: NDArray[np.float32]  # (C, D)
    bias: NDArray[np.float32]  # (C,)
    temperature: float
    labels: tuple[str, ...]  # C of them, in the order of the scores
    backbone_digest: str  # whose embeddings it reads

    def __post_init__(self) -> None:
        shape = (len(self.labels), self.weights.shape[-1])
        fits = self.weights.shape == shape and self.bias.shape == shape[:1]
        if not fits or self.weights.dtype != np.float32 or self.bias.dtype != np.float32:
            raise ArtefactInvalid(f"A head for {shape[0]} labels has weights of {self.weights.shape}.")
        finite = np.isfinite(self.weights).all() and np.isfinite(self.bias).all()
        if not finite or not 0 < self.temperature < np.inf:
            raise ArtefactInvalid("A head holds values that are no numbers.")

    def logits(self, embeddings: NDArray[np.float16]) -> NDArray[np.float32]:
        """(N, D) float16 → (N, C) float32, already divided by the temperature.

        A row's bits do not depend on the batch that it is in, so that a replay gives the recorded scores.
        BLAS gives no such promise: it picks its kernels, and with them its order of summation, by the size
        of the batch. Products and a sum over the last axis are added up in one order always.
        """
        rows = np.asarray(embeddings, dtype=np.float16).astype(np.float32)
        out = np.empty((len(rows), len(self.labels)), np.float32)
        step = max(1, _CHUNK // self.weights.size)
        products = np.empty((min(step, len(rows)), *self.weights.shape), np.float32)
        for start in range(0, len(rows), step):
            chunk = rows[start : start + step]
            part = products[: len(chunk)]
            np.multiply(chunk[:, None, :], self.weights, out=part)
            np.sum(part, axis=-1, out=out[start : start + step])
        scaled: NDArray[np.float32] = (out + self.bias) / np.float32(self.temperature)
        return scaled

    def scores(self, embeddings: NDArray[np.float16]) -> NDArray[np.float32]:
        """(N, D) float16 → (N, C) float32; each row sums to one, and its bits are its own (see `logits`)."""
        logits = self.logits(embeddings)
        grown = np.exp(logits - logits.max(axis=-1, keepdims=True, initial=-np.inf))
        scores: NDArray[np.float32] = grown / grown.sum(axis=-1, keepdims=True)
        return scores

    def save(self, path: Path) -> None:
        """Write `head.npz`: the same head gives the same bytes."""
        np.savez(
            path,
            weights=self.weights,
            bias=self.bias,
            temperature=np.float64(self.temperature),
            labels=np.array(self.labels, dtype=np.str_),
            backbone_digest=np.array(self.backbone_digest, dtype=np.str_),
        )

    @classmethod
    def load(cls, path: Path) -> Self:
        """Read what `save` wrote.

        Raises:
            ArtefactInvalid: the file is missing, damaged, or no head.
        """
        try:
            with np.load(path, allow_pickle=False) as stored:
                return cls(
                    weights=stored["weights"],
                    bias=stored["bias"],
                    temperature=float(stored["temperature"]),
                    labels=tuple(str(label) for label in stored["labels"]),
                    backbone_digest=str(stored["backbone_digest"]),
                )
        except (OSError, ValueError, KeyError, TypeError, IndexError, EOFError, zipfile.BadZipFile) as error:
            raise ArtefactInvalid(f"{path} holds no head that can be read: {error}") from None

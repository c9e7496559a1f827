"""Multinomial logistic regression on embeddings: the objective, its minimiser and its temperature."""

from dataclasses import dataclass
from typing import Self

import numpy as np
from numpy.typing import NDArray
from scipy import optimize

Floats = NDArray[np.float32]
#: (D + 1, C): what standardised embeddings are multiplied with; the last row is the bias.
Parameters = NDArray[np.float64]

#: A dimension that hardly moves in the data at hand is not blown up beyond this share of the usual spread:
#: in images of a new kind it may move, and would then shout down all others.
SCALE_FLOOR = 0.25
#: Spread of log temperature that is thought likely before any image is seen. Keeps a handful of images that
#: are all answered right from making every score 0 or 1.
TEMPERATURE_SPREAD = 0.7
TEMPERATURES = (0.1, 10.0)


@dataclass(frozen=True, eq=False)
class Scaler:
    """Standardisation of embeddings, D dimensions."""

    mean: Floats  # (D,)
    scale: Floats  # (D,), positive

    @classmethod
    def measure(cls, embeddings: NDArray[np.float16]) -> Self:
        """From embeddings (N, D), N ≥ 1."""
        mean = embeddings.mean(axis=0, dtype=np.float64)
        spread = embeddings.std(axis=0, dtype=np.float64)
        usual = float(np.median(spread[spread > 0])) if (spread > 0).any() else 1.0
        return cls(mean.astype(np.float32), np.maximum(spread, SCALE_FLOOR * usual).astype(np.float32))

    def apply(self, embeddings: NDArray[np.float16]) -> Floats:
        """(N, D) float16 → (N, D) float32 with mean near 0 and spread near 1."""
        scaled = embeddings.astype(np.float32)
        scaled -= self.mean
        scaled /= self.scale
        return scaled

    def fold(self, parameters: Parameters) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Weights (C, D) and bias (C,) that do on raw embeddings what these do on standardised ones."""
        weights = parameters[:-1].T / self.scale
        return weights, parameters[-1] - weights @ self.mean.astype(np.float64)


def logits(features: Floats, parameters: Parameters) -> Floats:
    """(N, D) standardised, (D + 1, C) → (N, C)."""
    narrow = parameters.astype(np.float32)
    found: Floats = features @ narrow[:-1] + narrow[-1]
    return found


def log_softmax(values: Floats) -> Floats:
    """(N, C) → (N, C), row by row."""
    shifted = values - values.max(axis=1, keepdims=True)
    found: Floats = shifted - np.log(np.exp(shifted).sum(axis=1, keepdims=True))
    return found


def log_losses(values: Floats, labels: NDArray[np.int32], temperature: float = 1.0) -> NDArray[np.float64]:
    """What each answer costs: −ln of the score of the right label, (N,)."""
    scores = log_softmax(values / np.float32(temperature))
    return -scores[np.arange(len(labels)), labels].astype(np.float64)


@dataclass(frozen=True, eq=False)
class Problem:
    """Weighted cross-entropy with soft targets.

    The loss is Σ weight · (−Σ target · ln score) + l2 ÷ 2 · Σ parameter², without the bias. The weights of
    the labelled images sum to one, so `l2` means the same at any number of images.
    """

    features: Floats  # (N, D), standardised
    targets: Floats  # (N, C), rows sum to one
    weights: Floats  # (N,)

    def join(self, other: "Problem") -> "Problem":
        """The rows of both, one after the other."""
        return Problem(
            np.concatenate([self.features, other.features]),
            np.concatenate([self.targets, other.targets]),
            np.concatenate([self.weights, other.weights]),
        )

    def weaken(self, last: int, strength: float) -> "Problem":
        """The same with the weights of the `last` rows times `strength`; without those rows if that is 0."""
        first = len(self.weights) - last
        if strength == 0.0:
            return Problem(self.features[:first], self.targets[:first], self.weights[:first])
        weights = self.weights.copy()
        weights[first:] *= np.float32(strength)
        return Problem(self.features, self.targets, weights)

    def minimise(self, l2: float, start: Parameters | None = None, *, tolerance: float = 1e-5) -> Parameters:
        """Fit by L-BFGS, the same bits for the same input on one kind of CPU if BLAS has one thread.

        Args:
            start: parameters (D + 1, C) to begin at; zeros if none.
            tolerance: stop where a step gains less than this share of the loss.

        Returns:
            Parameters (D + 1, C); the last row is the bias.
        """
        shape = (self.features.shape[1] + 1, self.targets.shape[1])
        begin = np.zeros(shape) if start is None else start
        found = optimize.minimize(
            self._loss_and_slope,
            begin.ravel(),
            args=(l2, shape),
            jac=True,
            method="L-BFGS-B",
            options={"maxiter": 300, "ftol": tolerance, "gtol": 1e-7},
        )
        parameters: Parameters = found.x.reshape(shape)
        return parameters

    def _loss_and_slope(
        self, flat: NDArray[np.float64], l2: float, shape: tuple[int, int]
    ) -> tuple[float, NDArray[np.float64]]:
        parameters = flat.reshape(shape)
        scores = log_softmax(logits(self.features, parameters))
        cost = -float(np.einsum("nc,nc,n->", self.targets, scores, self.weights, dtype=np.float64))
        error = (np.exp(scores) - self.targets) * self.weights[:, None]
        slope = np.empty(shape)
        slope[:-1] = self.features.T @ error + l2 * parameters[:-1]
        slope[-1] = error.sum(axis=0, dtype=np.float64)
        return cost + l2 / 2 * float(np.square(parameters[:-1]).sum()), slope.ravel()


def find_temperature(values: Floats, labels: NDArray[np.int32]) -> float:
    """What to divide logits (N, C) by so that the scores are as sure as they are right.

    Temperature scaling (Guo et al., 2017) with a weak normal prior on the logarithm; 1 without any image.
    """
    if not len(labels):
        return 1.0

    def cost(log_temperature: float) -> float:
        prior = (log_temperature / TEMPERATURE_SPREAD) ** 2 / 2
        return float(log_losses(values, labels, float(np.exp(log_temperature))).sum()) + prior

    low, high = (float(np.log(t)) for t in TEMPERATURES)
    found = optimize.minimize_scalar(cost, bounds=(low, high), method="bounded", options={"xatol": 1e-4})
    return float(np.exp(found.x))

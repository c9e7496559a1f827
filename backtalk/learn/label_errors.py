"""Which labels the other samples speak against: confident learning on out-of-fold scores. No TensorFlow.

A process of its own, for what it imports is large: `python -m backtalk.learn.label_errors FOLDER` reads
`samples.npz` and writes `found.npz`. Started by `backtalk.suspects`.

Source: C. Northcutt, L. Jiang, I. Chuang, Confident Learning, Journal of Artificial Intelligence Research 70
(2021), as cleanlab implements it.
"""

import os
import sys
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from threadpoolctl import threadpool_limits

from backtalk.learn.head import weigh_labels
from backtalk.learn.logistic import Floats, Problem, Scaler, find_temperature, log_losses, log_softmax, logits

FOLDS = 5
L2S = (0.1, 0.03, 0.01)
TOLERANCE = 3e-4
_NICE = 19


def find_label_errors(
    embeddings: NDArray[np.float16], labels: NDArray[np.int32], groups: NDArray[np.int64], seed: int
) -> tuple[Floats, NDArray[np.int64]]:
    """Scores by heads that learned from the others alone, and suspected samples, the most suspected first.

    Args:
        embeddings: (N, D).
        labels: (N,), each of 0 to C - 1 at least once in every fold's remainder.
        groups: (N,): near-duplicates share one, and a fold, so that none speaks for its own like.
        seed: of the folds.

    Returns:
        Scores (N, C), and indices (K,) of those whose label is suspected to be wrong.
    """
    from cleanlab.filter import find_label_issues

    scores = score_out_of_fold(embeddings, labels, deal_folds(groups, seed))
    ranked = find_label_issues(
        labels, scores, filter_by="prune_by_noise_rate", return_indices_ranked_by="self_confidence", n_jobs=1
    )
    suspected = [i for i in ranked if scores[i].argmax() != labels[i]]
    return scores, np.array(suspected, np.int64)


def deal_folds(groups: NDArray[np.int64], seed: int) -> NDArray[np.int64]:
    """The fold of each sample, (N,); those of one group are in one fold."""
    known, members = np.unique(groups, return_inverse=True)
    dealt = np.random.default_rng(seed).permutation(len(known)) % FOLDS
    return dealt[members]


def score_out_of_fold(
    embeddings: NDArray[np.float16], labels: NDArray[np.int32], folds: NDArray[np.int64]
) -> Floats:
    """(N, C): softmax scores at the temperature, and of the `L2S` by the strength, that suit them best."""
    features = Scaler.measure(embeddings).apply(embeddings)
    targets = np.eye(int(labels.max()) + 1, dtype=np.float32)[labels]
    tried = []
    with threadpool_limits(1):
        for l2 in L2S:
            found = np.empty_like(targets)
            for number in range(FOLDS):
                rows = folds != number
                weights = weigh_labels(labels[rows])
                problem = Problem(features[rows], targets[rows], weights / weights.sum())
                found[~rows] = logits(features[~rows], problem.minimise(l2, None, tolerance=TOLERANCE))
            temperature = find_temperature(found, labels)
            cost = float(log_losses(found, labels, temperature).mean())
            tried.append((cost, log_softmax(found / np.float32(temperature))))
    best = min(tried, key=lambda entry: entry[0])[1]
    scores: Floats = np.exp(best)
    return scores


def main(folder: Path) -> None:
    os.nice(_NICE)
    with np.load(folder / "samples.npz", allow_pickle=False) as given:
        scores, suspected = find_label_errors(
            given["embeddings"], given["labels"], given["groups"], int(given["seed"])
        )
    np.savez(folder / "found.npz", scores=scores, suspected=suspected)


if __name__ == "__main__":
    main(Path(sys.argv[1]))

"""The checks that look at scores: Brier score (a veto) and calibration error (shown). Pure."""

import math

import numpy as np
from numpy.typing import NDArray

from backtalk import intervals
from backtalk.answers import Answers, Check, Pairs, Scores, name_outcome
from backtalk.policy import Policy

ECE_BINS = 15
#: Ids of the images whose score worsened most.
MAX_WORSENED = 50


def check_brier(answers: Answers, policy: Policy) -> Check:
    """Veto: the Brier score, surely worse by more than `max_brier_loss` (paired, Student's t).

    Needs `min_veto_images` images, as the other vetoes do.
    """
    n = len(answers)
    loss = _square_error(answers, answers.candidate) - _square_error(answers, answers.champion)
    mean = float(loss.mean()) if n else None
    bound, passed = None, None
    said = "No images to compare on." if mean is None else f"Brier score {mean:+.4f} (more is worse)"
    if n and n < policy.min_veto_images:
        said += f": too few images to judge, it takes {policy.min_veto_images}."
    elif n:
        bound = float(intervals.student_lower(loss.mean(), loss.std(ddof=1), n, policy.confidence))
        passed = bound <= policy.max_brier_loss
        said += f", at least {bound:+.4f} with {policy.confidence:.0%} confidence; "
        said += f"{policy.max_brier_loss:+.4f} is the limit."
    pairs = Pairs.compare(answers.champion_right, answers.candidate_right)
    worsened = np.argsort(-loss, kind="stable")[: int((loss > 0).sum())]
    detail = {
        "sentence": said,
        "outcome": name_outcome(passed, "too-few"),
        "limit": policy.max_brier_loss,
        "confidence": policy.confidence,
        "champion": float(_square_error(answers, answers.champion).mean()) if n else None,
        "candidate": float(_square_error(answers, answers.candidate).mean()) if n else None,
        "worsened_images": answers.list_ids(worsened, MAX_WORSENED),
    }
    return Check("brier", mean, bound, n, pairs.b, pairs.c, passed, detail)


def show_ece(answers: Answers) -> Check:
    """Expected calibration error of both; shown, never judged: it is biased upwards on few images."""
    champion, candidate = (
        measure_ece(scores, right)
        for scores, right in (
            (answers.champion, answers.champion_right),
            (answers.candidate, answers.candidate_right),
        )
    )
    known = not math.isnan(champion)
    said = f"Calibration error {candidate:.3f}, the champion's is {champion:.3f}; not judged."
    detail = {
        "sentence": said if known else "No images to measure calibration on.",
        "outcome": "shown",
        "champion": champion if known else None,
        "candidate": candidate if known else None,
        "bins": {
            "champion": bin_confidence(answers.champion, answers.champion_right),
            "candidate": bin_confidence(answers.candidate, answers.candidate_right),
        },
    }
    return Check("ece", candidate if known else None, None, len(answers), 0, 0, None, detail)


def measure_ece(scores: Scores, right: NDArray[np.bool_]) -> float:
    """Mean gap between confidence and accuracy over 15 equal bins of the highest score; NaN without images.

    Source: Guo, Pleiss, Sun and Weinberger, "On Calibration of Modern Neural Networks", ICML 2017.
    """
    if not len(right):
        return math.nan
    gaps = [abs(confidence - hits) for _, confidence, hits in bin_confidence(scores, right)]
    return float(sum(gaps) / len(right))


def bin_confidence(scores: Scores, right: NDArray[np.bool_]) -> list[tuple[int, float, int]]:
    """(images, sum of their highest scores, right ones) in each of 15 equal bins of the highest score."""
    if not len(right):
        return [(0, 0.0, 0)] * ECE_BINS
    top = scores.max(axis=1).astype(np.float64)
    bins = np.clip(np.ceil(top * ECE_BINS).astype(np.intp) - 1, 0, ECE_BINS - 1)
    images = np.bincount(bins, minlength=ECE_BINS)
    confidence = np.bincount(bins, weights=top, minlength=ECE_BINS)
    hits = np.bincount(bins[right], minlength=ECE_BINS)
    return [(int(n), float(c), int(h)) for n, c, h in zip(images, confidence, hits, strict=True)]


def _square_error(answers: Answers, scores: Scores) -> NDArray[np.float64]:
    """Squared error of each image, summed over the classes (G. W. Brier, Monthly Weather Review 78, 1950)."""
    error = scores.astype(np.float64)  # a copy
    error[np.arange(len(answers)), answers.truth] -= 1
    return np.asarray((error**2).sum(axis=1))

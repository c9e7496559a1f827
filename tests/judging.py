"""Made-up answers for tests of the gate, by how many images are fixed, broken, right and wrong."""

import numpy as np

from backtalk.gate import Answers, Check, Evidence, Judgement, judge
from backtalk.policy import Policy

LABELS = ("cat", "dog", "owl")
POLICY = Policy()


def score(labels: np.ndarray, top: float = 0.6) -> np.ndarray:
    """Scores with `top` on the given label and the rest shared by the others."""
    scores = np.full((len(labels), len(LABELS)), (1 - top) / (len(LABELS) - 1), dtype=np.float32)
    scores[np.arange(len(labels)), labels] = top
    return scores


def make_answers(
    fixed: int = 0,
    broken: int = 0,
    right: int = 0,
    wrong: int = 0,
    *,
    label: int | None = None,
    anchor_right: np.ndarray | None = None,
    top: float = 0.6,
) -> Answers:
    """So many images fixed, broken, right by both and wrong by both; true labels in turn, or all `label`."""
    n = fixed + broken + right + wrong
    truth = np.arange(n) % len(LABELS) if label is None else np.full(n, label)
    other = (truth + 1) % len(LABELS)
    kinds = np.repeat(["fixed", "broken", "right", "wrong"], [fixed, broken, right, wrong])
    champion = np.where(np.isin(kinds, ["broken", "right"]), truth, other)
    candidate = np.where(np.isin(kinds, ["fixed", "right"]), truth, other)
    anchor = None if anchor_right is None else score(np.where(anchor_right, truth, other))
    ids = tuple(f"{kind}-{i}" for i, kind in enumerate(kinds))
    return Answers(ids, truth, score(champion), score(candidate, top), anchor)


NONE = make_answers()


def judge_on(holdout: Answers, policy: Policy = POLICY, **evidence) -> Judgement:
    evidence = {"regression": NONE, "kept": NONE} | evidence
    return judge(Evidence(LABELS, holdout, **evidence), policy)


def row(judgement: Judgement, name: str) -> Check:
    return next(check for check in judgement.checks if check.check == name)


def join(one: Answers, other: Answers) -> Answers:
    return Answers(
        tuple(f"{i}" for i in range(len(one) + len(other))),
        np.concatenate([one.truth, other.truth]),
        np.concatenate([one.champion, other.champion]),
        np.concatenate([one.candidate, other.candidate]),
    )


def take(answers: Answers, rows: list[int]) -> Answers:
    return Answers(
        tuple(answers.image_ids[i] for i in rows),
        answers.truth[rows],
        answers.champion[rows],
        answers.candidate[rows],
    )


GOOD = make_answers(fixed=40, broken=15, right=430, wrong=15)

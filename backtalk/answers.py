"""What champion, candidate and anchor say about the same images, and the row that a check is. Pure."""

from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

#: Image ids of each kind that a row keeps; its counts are complete.
MAX_IDS = 200

Scores = NDArray[np.float32]
Flags = NDArray[np.bool_]


@dataclass(frozen=True, eq=False)
class Past:
    """What an anchor of some time reads right: `seen` and `right` are (N,), and only where its backbone has
    seen the image does `right` mean anything."""

    version: int
    seen: Flags
    right: Flags


@dataclass(frozen=True, eq=False)
class Answers:
    """The answers to be judged on one split.

    `truth` (N,) holds indices into the labels; the scores are (N, C) in the order of the labels. `anchor` is
    None where the champion is itself the anchor. `past` has the anchors, earlier ones too, without the
    champion: what no class may fall behind.

    Raises:
        ValueError: the shapes do not fit together, or a score of champion or anchor is not finite.
    """

    image_ids: tuple[str, ...]
    truth: NDArray[np.integer[Any]]
    champion: Scores
    candidate: Scores
    anchor: Scores | None = None
    past: tuple[Past, ...] = ()

    def __post_init__(self) -> None:
        n = len(self.image_ids)
        given = [self.champion, self.candidate] + ([] if self.anchor is None else [self.anchor])
        if len(self.truth) != n or any(len(s) != n or s.shape != self.champion.shape for s in given):
            raise ValueError("answers: each image needs one label and one row of scores from each version")
        if any(len(one.seen) != n or len(one.right) != n for one in self.past):
            raise ValueError("answers: each image needs one flag from each anchor")
        for name in ("champion", "anchor"):
            scores = getattr(self, name)
            if scores is not None and not np.isfinite(scores).all():
                raise ValueError(f"answers: a score of the {name} is not a finite number")

    def __len__(self) -> int:
        return len(self.image_ids)

    @cached_property
    def candidate_right(self) -> Flags:
        return self._right(self.candidate)

    @cached_property
    def champion_right(self) -> Flags:
        return self._right(self.champion)

    @cached_property
    def anchor_right(self) -> Flags:
        return self.champion_right if self.anchor is None else self._right(self.anchor)

    @cached_property
    def champion_is_anchor(self) -> bool:
        return self.anchor is None or np.array_equal(self.anchor, self.champion)

    def list_ids(self, rows: NDArray[np.intp], most: int = MAX_IDS) -> list[str]:
        """Ids of these rows, the first `most` of them."""
        return [self.image_ids[int(row)] for row in rows[:most]]

    def _right(self, scores: Scores) -> Flags:
        if not len(self):
            return np.zeros(0, dtype=np.bool_)
        return np.asarray(scores.argmax(axis=1) == self.truth)


@dataclass(frozen=True)
class Check:
    """One line of a verdict: the columns of `gate_checks`.

    `passed` is None where nothing was judged (shown only, too few images) or the data cannot tell;
    `detail["outcome"]` says which: `passed`, `failed`, `undecided`, `too-few` or `shown`.
    `detail["sentence"]` is for the page; `bound` is held against `detail["limit"]`.
    """

    check: str
    value: float | None
    bound: float | None
    n: int
    fixed: int
    broken: int
    passed: bool | None
    detail: dict[str, Any]


@dataclass(frozen=True, eq=False)
class Pairs:
    """Which images the candidate fixed (the reference was wrong there) and which it broke."""

    fixed: Flags
    broken: Flags

    @classmethod
    def compare(cls, reference_right: Flags, candidate_right: Flags) -> "Pairs":
        return cls(candidate_right & ~reference_right, reference_right & ~candidate_right)

    @cached_property
    def b(self) -> int:
        return int(self.fixed.sum())

    @cached_property
    def c(self) -> int:
        return int(self.broken.sum())

    def list_images(self, answers: Answers) -> dict[str, list[str]]:
        """Ids of the images behind the counts, at most `MAX_IDS` of each kind."""
        return {
            "fixed_images": answers.list_ids(np.flatnonzero(self.fixed)),
            "broken_images": answers.list_ids(np.flatnonzero(self.broken)),
        }


def name_outcome(passed: bool | None, otherwise: str = "undecided") -> str:
    """The word for `passed`; `otherwise` where it is None."""
    if passed is None:
        return otherwise
    return "passed" if passed else "failed"


def points(share: float) -> str:
    """A difference of shares in words: `+2.1 points`."""
    # Adding zero turns -0.0 into 0.0: "-0.0 points" would read as a loss.
    return f"{round(100 * share, 1) + 0.0:+.1f} points"

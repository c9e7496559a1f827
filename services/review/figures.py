"""Two versions' answers as figures: confusion, recall by class, reliability. Geometry for SVG, no drawing."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from services.review import evidence_words as say
from services.review import words

Cells = Sequence[Sequence[int]]  # [true label, said label, images], by index
Bins = Sequence[Sequence[float]]  # [images, sum of their highest scores, right ones]

MOST_IN_MATRIX = 8  # labels; with more, the commonest mix-ups are listed instead
MOST_CONFUSIONS = 20
MOST_CLASSES = 30
SHADES = 5
FRAME, SIDE = 34.0, 220.0  # pixels: the reliability diagram's left and lower margin, and its square


@dataclass(frozen=True)
class Cell:
    """`shade`: 0 for none, else 1 to 5 by the share of its row."""

    images: int
    share: str
    right: bool
    shade: int


@dataclass(frozen=True)
class Confusion:
    """How often images of `truth` were read as `said`, by both versions."""

    truth: str
    said: str
    before: int
    after: int

    @property
    def change(self) -> str:
        return say.signed(self.after - self.before)


@dataclass(frozen=True)
class ClassLine:
    """Recall of one class. `loss_at_least` is the gate's bound where it judged the class."""

    label: str
    images: int
    before: str
    after: str
    change: str
    tone: str
    loss_at_least: str | None


@dataclass(frozen=True)
class Dot:
    x: float
    y: float
    radius: float


@dataclass(frozen=True)
class ReliabilityLine:
    """One bin of scores, in words, for the table beside the diagram."""

    scores: str
    before_images: int
    before: str
    after_images: int
    after: str


@dataclass(frozen=True)
class Reliability:
    before: list[Dot]
    after: list[Dot]
    lines: list[ReliabilityLine]


@dataclass(frozen=True)
class Figures:
    """What a page shows of two versions; a matrix has a row for each true label."""

    labels: list[str]
    matrices: tuple[list[list[Cell]], list[list[Cell]]] | None
    confusions: list[Confusion]
    classes: list[ClassLine]
    classes_left_out: int
    reliability: Reliability | None


def make_figures(
    labels: Sequence[str],
    cells: tuple[Cells, Cells],
    bins: tuple[Bins, Bins] | None,
    judged: Sequence[dict[str, Any]] = (),
) -> Figures:
    """`cells` and `bins` are those of the version before and after; `judged` the gate's lines by class."""
    before, after = (_count(len(labels), side) for side in cells)
    small = len(labels) <= MOST_IN_MATRIX
    classes = _make_classes(labels, before, after, {line["label"]: line for line in judged})
    return Figures(
        labels=list(labels),
        matrices=(_make_matrix(before), _make_matrix(after)) if small else None,
        confusions=[] if small else _list_confusions(labels, before, after),
        classes=classes[:MOST_CLASSES],
        classes_left_out=len(classes[MOST_CLASSES:]),
        reliability=_make_reliability(*bins) if bins else None,
    )


Counts = list[list[int]]


def _count(n: int, cells: Cells) -> Counts:
    counts = [[0] * n for _ in range(n)]
    for truth, said, images in cells:
        counts[truth][said] = images
    return counts


def _make_matrix(counts: Counts) -> list[list[Cell]]:
    return [
        [_make_cell(images, sum(row), truth == said) for said, images in enumerate(row)]
        for truth, row in enumerate(counts)
    ]


def _make_cell(images: int, total: int, right: bool) -> Cell:
    share = images / total if total else 0.0
    shade = min(SHADES, 1 + int(share * SHADES)) if images else 0
    return Cell(images, words.share(share) if total else "–", right, shade)


def _list_confusions(labels: Sequence[str], before: Counts, after: Counts) -> list[Confusion]:
    """The commonest mix-ups of either version."""
    found = [
        Confusion(labels[truth], labels[said], before[truth][said], after[truth][said])
        for truth in range(len(labels))
        for said in range(len(labels))
        if truth != said and (before[truth][said] or after[truth][said])
    ]
    return sorted(found, key=lambda one: (-max(one.before, one.after), one.truth))[:MOST_CONFUSIONS]


def _make_classes(
    labels: Sequence[str], before: Counts, after: Counts, judged: dict[str, Any]
) -> list[ClassLine]:
    """Those that lose most first; a class without an image has no recall."""
    lines = []
    for i, label in enumerate(labels):
        n = sum(before[i])
        was, now = ((counts[i][i] / n) if n else 0.0 for counts in (before, after))
        bound = judged.get(label, {}).get("bound")
        line = ClassLine(
            label=label,
            images=n,
            before=words.share(was) if n else "–",
            after=words.share(now) if n else "–",
            change=say.points(now - was) if n else "–",
            tone="good" if now > was else "bad" if now < was else "",
            loss_at_least=say.points(bound) if bound is not None and bound > 0 else None,
        )
        lines.append((now - was, -n, line))
    return [line for _, _, line in sorted(lines, key=lambda one: one[:2])]


def _make_reliability(before: Bins, after: Bins) -> Reliability | None:
    """None without a single image."""
    total = sum(images for images, *_ in after)
    if not total:
        return None
    width = 1 / len(after)
    lines = [
        ReliabilityLine(
            scores=f"{words.share(i * width)} – {words.share((i + 1) * width)}",
            before_images=int(old[0]),
            before=_say_hits(old),
            after_images=int(new[0]),
            after=_say_hits(new),
        )
        for i, (old, new) in enumerate(zip(before, after, strict=True))
        if old[0] or new[0]
    ]
    return Reliability(_place(before, total), _place(after, total), lines)


def _say_hits(one: Sequence[float]) -> str:
    return words.share(one[2] / one[0]) if one[0] else "–"


def _place(bins: Bins, total: float) -> list[Dot]:
    """Mean score to the right, share of right answers upwards; the area grows with the images."""
    return [
        Dot(
            x=round(FRAME + SIDE * confidence / images, 1),
            y=round(SIDE * (1 - hits / images) + 8, 1),
            radius=round(3 + 9 * (images / total) ** 0.5, 1),
        )
        for images, confidence, hits in bins
        if images
    ]

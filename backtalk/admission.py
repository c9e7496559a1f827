"""Which samples a snapshot takes in, and whose answers judge: what nobody approved gets a bounded say. Pure.

A *firm* sample is one whose label a person gave or approved; the base folder counts as that. The others came
from apps alone, by automatic approval or as confirmations. `docs/poisoning.md` gives the reasons and what was
measured.
"""

from collections import Counter, defaultdict
from collections.abc import Hashable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

from backtalk.draws import draw
from backtalk.states import Origin, Split

#: Of the firm samples with a label: what one app's corrections may add that no person approved. Measured:
#: with it one liar cost the attacked class 1 to 3 points in the worst seed, without it 13 to 16.
APP_SHARE = 0.05
#: The same for all apps together: four that collude have no more weight than a fifth of a class.
LABEL_SHARE = 0.20
#: The same for one app's confirmations: they repeat what a version of ours said, and teach no new mistake.
CONFIRMED_SHARE = 0.50
#: Of the answers in `kept`: what may come from one app where several report.
KEPT_SHARE = 0.20
#: An app with fewer answers in `kept` is no second opinion yet: else one confirmation by a new key would
#: throw away all but one of everybody else's.
FEWEST_KEPT = 20
#: Where a sample comes from that an app spoke of.
REPORTED = (Origin.CORRECTION, Origin.CONFIRMATION)


@dataclass(frozen=True)
class Offered:
    """A live sample that may be learned from or judged on."""

    sample_id: int
    label: str
    split: str
    origin: str
    by_person: bool
    app: str | None  # whose statement it came from; none for the base folder
    group: int | None  # its near-duplicates
    pixels_sha256: str
    disputed: bool  # an undecided statement about its image contradicts another

    @property
    def firm(self) -> bool:
        return self.by_person


@dataclass
class Admitted:
    """What is taken in, in the order it was offered, and how many were left out, why and of whom."""

    samples: list[Offered]
    left_out: Counter[str] = field(default_factory=Counter)
    capped: Counter[str] = field(default_factory=Counter)  # by app

    def counts(self) -> dict[str, Any]:
        """Members for the snapshot's counts; none where nothing was left out."""
        shown = {"left_out": dict(self.left_out), "capped": dict(self.capped)}
        return {name: counted for name, counted in shown.items() if counted}


def admit(offered: Sequence[Offered], salt: bytes) -> Admitted:
    """Choose what a run learns from among live train and validation samples.

    Nothing that a person approved is ever left out, save for near-duplicates on the validation side. What is
    drawn is drawn by keyed hash of the pixels: nobody outside can foretell it, and the same samples give the
    same snapshot.
    """
    admitted = Admitted(list(offered))
    _drop(admitted, "disputed", {s.sample_id for s in offered if s.disputed and not s.firm})
    _drop(admitted, "contradicted", _find_contradicted(admitted.samples))
    validation = [s for s in admitted.samples if s.split == Split.VALIDATION]
    _drop(admitted, "repeated", _find_repeated(validation))
    apps = {s.app for s in admitted.samples if s.origin in REPORTED}
    if len(apps) > 1:
        for split in (Split.TRAIN, Split.VALIDATION):
            over = _find_over_cap([s for s in admitted.samples if s.split == split], salt)
            admitted.capped.update(s.app or "" for s in admitted.samples if s.sample_id in over)
            _drop(admitted, "capped", over)
    return admitted


def _drop(admitted: Admitted, why: str, ids: set[int]) -> None:
    if ids:
        admitted.samples = [s for s in admitted.samples if s.sample_id not in ids]
        admitted.left_out[why] += len(ids)


def _find_contradicted(samples: Iterable[Offered]) -> set[int]:
    """Of near-duplicates with different labels those stay that people labelled; without any, none does."""
    groups: defaultdict[Hashable, list[Offered]] = defaultdict(list)
    for sample in samples:
        if sample.group is not None:
            groups[sample.group].append(sample)
    found = set()
    for group in groups.values():
        firm = {s.label for s in group if s.firm}
        others = [s for s in group if not s.firm]
        right = firm or {s.label for s in others}
        found |= {s.sample_id for s in others if s.label not in right or len(right) > 1}
    return found


def _find_repeated(samples: Iterable[Offered]) -> set[int]:
    """All but the first near-duplicate with the same label; the base folder's images all stay."""
    known: set[Hashable] = set()
    found = set()
    for sample in sorted(samples, key=lambda s: s.sample_id):
        if sample.origin == Origin.BASE or sample.group is None:
            continue
        if (sample.group, sample.label) in known:
            found.add(sample.sample_id)
        known.add((sample.group, sample.label))
    return found


def _find_over_cap(samples: Sequence[Offered], salt: bytes) -> set[int]:
    """Samples of one split that exceed what an app, or all of them, may add to a label."""
    firm = Counter(s.label for s in samples if s.firm)
    loose = [s for s in samples if not s.firm]
    corrected = [s for s in loose if s.origin != Origin.CONFIRMATION]
    confirmed = [s for s in loose if s.origin == Origin.CONFIRMATION]
    over = _exceed(corrected, firm, APP_SHARE, salt, by_app=True)
    left = [s for s in corrected if s.sample_id not in over]
    over |= _exceed(left, firm, LABEL_SHARE, salt, by_app=False)
    return over | _exceed(confirmed, firm, CONFIRMED_SHARE, salt, by_app=True)


def _exceed(
    samples: Iterable[Offered], firm: Counter[str], share: float, salt: bytes, *, by_app: bool
) -> set[int]:
    """Those drawn last, beyond `share` of the firm samples with their label; one is always allowed."""
    heaps: defaultdict[Hashable, list[Offered]] = defaultdict(list)
    for sample in samples:
        heaps[sample.app if by_app else None, sample.label].append(sample)
    found = set()
    for heap in heaps.values():
        allowed = max(1, int(share * firm[heap[0].label]))
        drawn = sorted(heap, key=lambda s: draw(salt, "cap", s.pixels_sha256))
        found |= {s.sample_id for s in drawn[allowed:]}
    return found


def weigh_repeats(samples: Iterable[tuple[int | None, str]]) -> list[float]:
    """How much each (group, origin) counts: near-duplicates from apps count as one image together."""
    pairs = list(samples)
    sizes = Counter(group for group, origin in pairs if group is not None and origin != Origin.BASE)
    return [1.0 if group is None or origin == Origin.BASE else 1 / sizes[group] for group, origin in pairs]


def limit_judges(offered: Sequence[Offered], salt: bytes, *, kept: bool) -> list[Offered]:
    """What judges: of near-duplicates from apps the first with each label, and of `kept` nobody's too much.

    No app's unapproved answers are more than a fifth of `kept`, or with fewer than five apps more than an
    equal share, where at least two have `FEWEST_KEPT`.
    """
    repeated = _find_repeated(offered)
    judges = [s for s in offered if s.sample_id not in repeated and not s.disputed]
    if not kept:
        return judges
    loose: defaultdict[str, list[Offered]] = defaultdict(list)
    for sample in judges:
        if not sample.firm and sample.app is not None:
            loose[sample.app].append(sample)
    sizes = [len(answers) for answers in loose.values()]
    if sum(size >= FEWEST_KEPT for size in sizes) < 2:
        return judges
    allowed = find_even_cap(sizes, len(judges) - sum(sizes))
    over = set()
    for answers in loose.values():
        drawn = sorted(answers, key=lambda s: draw(salt, "kept", s.pixels_sha256))
        over |= {s.sample_id for s in drawn[allowed:]}
    return [s for s in judges if s.sample_id not in over]


def find_even_cap(sizes: Sequence[int], others: int) -> int:
    """The most that each of several apps may give so that none exceeds its share of what remains.

    `sizes` are what they offer, `others` the answers that no cap touches.
    """
    share = max(KEPT_SHARE, 1 / sum(size >= FEWEST_KEPT for size in sizes))

    def fits(cap: int) -> bool:
        return min(cap, max(sizes)) <= share * (others + sum(min(size, cap) for size in sizes))

    low, high = FEWEST_KEPT, max(FEWEST_KEPT, *sizes)
    while low < high:  # what fits is one stretch that begins at zero, since the right side is concave
        middle = (low + high + 1) // 2
        low, high = (middle, high) if fits(middle) else (low, middle - 1)
    return low

"""How the gate and the caps do under poisoning: many seeds, real embeddings, heads and verdicts, no server.

    python -m bench.poisoning --seeds 10 --out build/poisoning.json

Handwritten digits (scikit-learn's) through a real backbone. Each seed: version 1 learns from a base folder;
four apps then send noisy digits for four rounds, correct what is wrong and confirm some of what is right;
some of them lie. After each round a run is made as a real one is: `admission.admit`, `fit_head`,
`gate.judge`, and what passes goes live. What counts in the end is an untouched set that nothing else sees.
"""

import argparse
import hashlib
import json
import tempfile
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from sklearn.datasets import load_digits

from backtalk.admission import Admitted, Offered, admit, limit_judges
from backtalk.answers import Past
from backtalk.draws import draw
from backtalk.gate import Answers, Evidence, judge
from backtalk.groups import TRAFFIC_EVAL_SHARE, base_eval_share, draw_side
from backtalk.heads import Head
from backtalk.images import to_input
from backtalk.learn.backbones import prepare_backbone
from backtalk.learn.head import fit_head
from backtalk.learn.held_out import HeadData
from backtalk.policy import Policy
from backtalk.runtime import Backbone
from backtalk.states import Origin, Side, Split, Verdict
from backtalk.suspicion import NEIGHBOURS, weigh

LABELS = tuple(str(number) for number in range(10))
DIGEST = "b" * 64
BASE, ROUNDS, PER_ROUND, NOISE = 600, 4, 150, 45.0
HONEST = ("alice", "bob", "carol", "dora")
FROM, TO = 3, 8  # the attacked class, and what it is called


@dataclass(frozen=True)
class Attack:
    """Who lies, how much, and what stands against it."""

    name: str
    liars: tuple[str, ...] = ()
    share: float = 0.0  # of the images of one class that a liar was answered rightly
    apps: tuple[str, ...] = HONEST
    capped: bool = True
    believed: float = 0.0  # share of the lies that a careless reviewer approves; 0: automatic approval
    confirms: bool = False  # the liars confirm every wrong answer as well


ATTACKS = (
    Attack("nobody lies"),
    Attack("one of four flips 20 % of a class", ("dora",), 0.2),
    Attack("one of four flips 20 % of a class, no caps", ("dora",), 0.2, capped=False),
    Attack("one of four flips a whole class", ("dora",), 1.0),
    Attack("one of four flips a whole class, no caps", ("dora",), 1.0, capped=False),
    Attack("three of four flip a whole class", ("bob", "carol", "dora"), 1.0),
    Attack("three of four flip a whole class, no caps", ("bob", "carol", "dora"), 1.0, capped=False),
    Attack("the only app flips a whole class", ("dora",), 1.0, apps=("dora",)),
    Attack("one confirms every wrong answer", ("dora",), 0.0, confirms=True),
    Attack("one flips a class, reviewers let half through", ("dora",), 1.0, believed=0.5),
)


@dataclass
class World:
    """What one seed has: embeddings of images, who sends what, and the samples so far."""

    x: NDArray[np.float16]
    y: NDArray[np.int32]
    salt: bytes
    seed: int
    offered: list[Offered] = field(default_factory=list)
    marks: list[tuple[bool, bool]] = field(default_factory=list)  # lie, marked

    def digest_of(self, image: int) -> str:
        """Stands for its pixels'."""
        return hashlib.sha256(f"{self.seed}/{image}".encode()).hexdigest()

    def add(self, image: int, label: int, split: Split, origin: Origin, app: str | None, firm: bool) -> None:
        pixels = self.digest_of(image)
        self.offered.append(
            Offered(image, LABELS[label], split, origin, firm, app, image, pixels, disputed=False)
        )

    def choose(self, splits: tuple[Split, ...]) -> list[Offered]:
        return [s for s in self.offered if s.split in splits]

    def answers(self, split: Split, champion: Head, candidate: Head, anchors: list[Head]) -> Answers:
        judges = limit_judges(self.choose((split,)), self.salt, kept=split is Split.KEPT)
        x = self.x[[s.sample_id for s in judges]]
        truth = np.array([int(s.label) for s in judges], np.int64)
        names = tuple(str(s.sample_id) for s in judges)
        if split is not Split.HOLDOUT:
            return Answers(names, truth, champion.scores(x), candidate.scores(x))
        seen = np.ones(len(judges), np.bool_)
        past = tuple(
            Past(number, seen, head.scores(x).argmax(1) == truth)
            for number, head in enumerate(anchors, start=1)
            if head is not champion
        )
        return Answers(names, truth, champion.scores(x), candidate.scores(x), anchors[-1].scores(x), past)


def embed(folder: Path, name: str) -> tuple[NDArray[np.float16], NDArray[np.float16], NDArray[np.int32]]:
    """Clean and noisy embeddings of all digits, and what they are."""
    made = prepare_backbone(name, folder)
    backbone = Backbone(folder / "_backbones" / made.digest, 2)
    pixels, values = load_digits(return_X_y=True)
    generator = np.random.default_rng(0)
    found = []
    for noise in (0.0, NOISE):
        inputs = [to_input(_draw(row, noise, generator), backbone.input_size) for row in pixels]
        parts = [backbone.embed(np.stack(inputs[i : i + 64])) for i in range(0, len(inputs), 64)]
        found.append(np.concatenate(parts))
    return found[0], found[1], values.astype(np.int32)


def _draw(row: NDArray[np.float64], noise: float, generator: np.random.Generator) -> NDArray[np.uint8]:
    small = Image.fromarray((row.reshape(8, 8) * 255 / 16).astype(np.uint8))
    grey = np.zeros((64, 64), np.float64)
    grey[4:-4, 4:-4] = np.asarray(small.resize((56, 56), Image.Resampling.BICUBIC))
    grey += generator.normal(0, noise, grey.shape)
    return np.repeat(np.clip(grey, 0, 255).astype(np.uint8)[:, :, None], 3, axis=2)


def settle_base(world: World, images: NDArray[np.int64]) -> None:
    for image in images:
        side = draw_side(world.salt, world.digest_of(int(image)), base_eval_share(len(images)))
        split = {Side.TRAIN: Split.TRAIN, Side.VALIDATION: Split.VALIDATION, Side.EVAL: Split.HOLDOUT}[side]
        world.add(int(image), int(world.y[image]), split, Origin.BASE, None, firm=True)


def talk_back(world: World, head: Head, images: NDArray[np.int64], attack: Attack) -> None:
    """One round of traffic: each image goes to some app, which says what it says."""
    scores = head.scores(world.x[images])
    generator = np.random.default_rng(world.seed * 1000 + int(images[0]))
    for image, row in zip(images, scores, strict=True):
        truth, said = int(world.y[image]), int(row.argmax())
        app = attack.apps[int(image) % len(attack.apps)]
        lies = app in attack.liars
        flips = lies and truth == said == FROM and generator.random() < attack.share
        if flips:
            _report(world, int(image), TO, row, app, lie=True, attack=attack)
        elif said != truth and lies and attack.confirms:
            _keep(world, int(image), said, app)
        elif said != truth:
            _report(world, int(image), truth, row, app, lie=False, attack=attack)
        elif generator.random() < 0.5:
            _keep(world, int(image), said, app)


def _side(world: World, image: int) -> Side:
    return draw_side(world.salt, world.digest_of(image), TRAFFIC_EVAL_SHARE)


def _report(
    world: World, image: int, label: int, row: NDArray[np.float32], app: str, *, lie: bool, attack: Attack
) -> None:
    said = weigh(LABELS[label], LABELS[int(row.argmax())], float(row[label]), _neighbours(world, image))
    world.marks.append((lie, said.reason is not None))
    firm = attack.believed > 0  # reviewers look at everything, and let some lies through
    if firm and lie and draw(world.salt, "careless", str(image)) >= attack.believed:
        label = int(row.argmax())  # they saw that the answer had been right
        return _keep(world, image, label, app, firm=True)
    side = _side(world, image)
    if side is Side.EVAL:
        if firm:
            world.add(image, label, Split.REGRESSION, Origin.CORRECTION, app, firm=True)
        return None
    split = Split.TRAIN if side is Side.TRAIN else Split.VALIDATION
    return world.add(image, label, split, Origin.CORRECTION, app, firm=firm)


def _keep(world: World, image: int, label: int, app: str, *, firm: bool = False) -> None:
    split = {Side.TRAIN: Split.TRAIN, Side.VALIDATION: Split.VALIDATION, Side.EVAL: Split.KEPT}
    world.add(image, label, split[_side(world, image)], Origin.CONFIRMATION, app, firm=firm)


def _neighbours(world: World, image: int) -> list[str]:
    known = [s for s in world.choose((Split.TRAIN,)) if s.firm]
    vectors = world.x[[s.sample_id for s in known]].astype(np.float32)
    asked = world.x[image].astype(np.float32)
    near = vectors @ asked / (np.linalg.norm(vectors, axis=1) * np.linalg.norm(asked))
    return [known[i].label for i in np.argsort(-near)[:NEIGHBOURS]]


def fit(world: World, champion: Head | None, taught: set[int], *, capped: bool) -> tuple[Head, Admitted]:
    offered = world.choose((Split.TRAIN, Split.VALIDATION))
    admitted = admit(offered, world.salt) if capped else Admitted(offered)
    parts = {split: [s for s in admitted.samples if s.split == split] for split in Split}
    train, validation = parts[Split.TRAIN], parts[Split.VALIDATION]
    data = HeadData(
        train_x=world.x[[s.sample_id for s in train]],
        train_y=np.array([int(s.label) for s in train], np.int32),
        validation_x=world.x[[s.sample_id for s in validation]],
        validation_y=np.array([int(s.label) for s in validation], np.int32),
        stay_x=world.x[:0],
        train_seen=np.array([s.sample_id in taught for s in train], np.bool_),
        train_weight=np.ones(len(train), np.float32),
    )
    taught |= {s.sample_id for s in train}
    return fit_head(data, LABELS, DIGEST, champion, world.seed).head, admitted


def play(
    attack: Attack, seed: int, clean: NDArray[np.float16], noisy: NDArray[np.float16], y: NDArray[np.int32]
):
    """One seed of one attack: what went live, and how it does on what nobody touched."""
    order = np.random.default_rng(seed).permutation(len(y))
    base, rest = order[:BASE], order[BASE:]
    traffic, untouched = rest[: ROUNDS * PER_ROUND], rest[ROUNDS * PER_ROUND :]
    x = noisy.copy()
    x[base[::2]] = clean[base[::2]]  # the base folder has fewer noisy ones than traffic has
    world = World(x, y, f"salt {seed}".encode(), seed)
    settle_base(world, base)
    taught: set[int] = set()
    first, _ = fit(world, None, taught, capped=True)
    champion, anchors = first, [first]
    right = {"first": first.scores(x[untouched]).argmax(1) == y[untouched]}
    record = {
        "attack": attack.name,
        "capped": attack.capped,
        "seed": seed,
        "verdicts": [],
        "live": [],
        "attacked": [],
        "steps": [],
    }
    attacked = y[untouched] == FROM
    record["first"] = float(right["first"].mean())
    record["first_attacked"] = float(right["first"][attacked].mean())
    for number in range(ROUNDS):
        talk_back(world, champion, traffic[number * PER_ROUND : (number + 1) * PER_ROUND], attack)
        candidate, _ = fit(world, champion, taught, capped=attack.capped)
        answers = [
            world.answers(split, champion, candidate, anchors)
            for split in (Split.HOLDOUT, Split.REGRESSION, Split.KEPT)
        ]
        judgement = judge(Evidence(LABELS, *answers), Policy())
        record["verdicts"].append(str(judgement.verdict))
        if judgement.verdict is Verdict.PASSED:
            champion = candidate
            anchors += [candidate] * judgement.better_than_anchor
            found = candidate.scores(x[untouched]).argmax(1) == y[untouched]
            record["steps"].append(float(found.mean()) - (record["live"] or [record["first"]])[-1])
            record["live"].append(float(found.mean()))
            record["attacked"].append(float(found[attacked].mean()))
    record["marked"] = {
        "lies": [sum(m for lie, m in world.marks if lie), sum(lie for lie, _ in world.marks)],
        "honest": [sum(m for lie, m in world.marks if not lie), sum(not lie for lie, _ in world.marks)],
    }
    return record


def summarise(records: list[dict]) -> None:
    """A table in Markdown."""
    columns = (
        *("attack", "runs", "promoted", "worst against version 1", "worst step", "live at the end"),
        *("attacked class at the end", "its worst seed", "lies marked", "honest marked"),
    )
    print(f"| {' | '.join(columns)} |\n|{'---|' * len(columns)}")
    for attack in dict.fromkeys((r["attack"], r["capped"]) for r in records):
        found = [r for r in records if (r["attack"], r["capped"]) == attack]
        worst = min((live - r["first"] for r in found for live in r["live"]), default=0.0)
        step = min((step for r in found for step in r["steps"]), default=0.0)
        last = np.mean([(r["live"] or [r["first"]])[-1] - r["first"] for r in found])
        hit = [(r["attacked"] or [r["first_attacked"]])[-1] - r["first_attacked"] for r in found]
        runs = sum(len(r["verdicts"]) for r in found)
        passed = sum(v == "passed" for r in found for v in r["verdicts"])
        marks = {k: np.sum([r["marked"][k] for r in found], axis=0) for k in ("lies", "honest")}
        shown = {k: f"{v[0] / v[1]:.0%} of {v[1]}" if v[1] else "–" for k, v in marks.items()}
        points = " | ".join(f"{100 * v:+.1f}" for v in (worst, step, last, np.mean(hit), min(hit)))
        print(f"| {attack[0]} | {runs} | {passed} | {points} | {shown['lies']} | {shown['honest']} |")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seeds", type=int, default=10)
    parser.add_argument("--backbone", default="efficientnet-lite0")
    parser.add_argument("--out", type=Path)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        clean, noisy, y = embed(Path(folder), arguments.backbone)
    records = []
    for attack in ATTACKS:
        records += [play(attack, seed, clean, noisy, y) for seed in range(arguments.seeds)]
        print(attack.name, attack.capped, [r["live"][-1:] for r in records[-arguments.seeds :]], flush=True)
    if arguments.out:
        arguments.out.parent.mkdir(parents=True, exist_ok=True)
        arguments.out.write_text(json.dumps(records, indent=1), encoding="utf-8")
    summarise(records)


if __name__ == "__main__":
    main()

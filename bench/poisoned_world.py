"""The world of `bench.poisoning`: attacks, images, and apps that say what they say about the answers."""

import hashlib
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from sklearn.datasets import load_digits

from backtalk.admission import Offered, limit_judges
from backtalk.answers import Answers, Past
from backtalk.doubts import Claim
from backtalk.draws import draw
from backtalk.groups import TRAFFIC_EVAL_SHARE, base_eval_share, draw_side
from backtalk.heads import Head
from backtalk.images import to_input
from backtalk.learn.backbones import prepare_backbone
from backtalk.runtime import Backbone
from backtalk.states import Origin, Side, Split
from backtalk.suspicion import NEIGHBOURS, weigh

LABELS = tuple(str(number) for number in range(10))
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
    picks: bool = False  # the liars choose what they send: all images of the class
    strange: str = ""  # an honest app whose images are of another kind: black is white
    audited: float = 0.0  # share of the traffic that is drawn for people, who answer truly


ATTACKS = (
    Attack("nobody lies"),
    Attack("nobody lies, one sends another kind", strange="dora"),
    Attack("one of four flips 20 % of a class", ("dora",), 0.2),
    Attack("one of four flips 20 % of a class, no caps", ("dora",), 0.2, capped=False),
    Attack("one of four flips a whole class", ("dora",), 1.0),
    Attack("one of four flips a whole class, no caps", ("dora",), 1.0, capped=False),
    Attack("three of four flip a whole class", ("bob", "carol", "dora"), 1.0),
    Attack("three of four flip a whole class, no caps", ("bob", "carol", "dora"), 1.0, capped=False),
    Attack("three of four flip a whole class, a tenth audited", ("bob", "carol", "dora"), 1.0, audited=0.1),
    Attack("the only app flips a whole class", ("dora",), 1.0, apps=("dora",)),
    Attack("one sends only the class and flips 20 % of it", ("dora",), 0.2, picks=True),
    Attack("one sends only the class and flips half of it", ("dora",), 0.5, picks=True),
    Attack("one confirms every wrong answer", ("dora",), 0.0, confirms=True),
    Attack("one flips a class, reviewers let half through", ("dora",), 1.0, believed=0.5),
)


@dataclass(frozen=True)
class Said:
    """One correction, and what is known of it. `upheld`: what a reviewer said; None where nobody looked."""

    app: str
    predicted: str
    reported: str
    odds: float
    lie: bool
    marked: bool
    upheld: bool | None

    @property
    def claim(self) -> Claim:
        return Claim(self.app, self.app, self.predicted, self.reported, self.odds, self.upheld)


@dataclass
class World:
    """What one seed has: embeddings of images, who sends what, and the samples so far."""

    x: NDArray[np.float16]
    y: NDArray[np.int32]
    salt: bytes
    seed: int
    offered: list[Offered] = field(default_factory=list)
    said: list[Said] = field(default_factory=list)

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


@dataclass(frozen=True)
class Embedded:
    """Embeddings (N, D) of all digits, drawn in three ways, and what they are (N,)."""

    clean: NDArray[np.float16]
    noisy: NDArray[np.float16]
    inverted: NDArray[np.float16]
    y: NDArray[np.int32]


def embed(folder: Path, name: str) -> Embedded:
    made = prepare_backbone(name, folder)
    backbone = Backbone(folder / "_backbones" / made.digest, 2)
    pixels, values = load_digits(return_X_y=True)
    generator = np.random.default_rng(0)
    found = []
    for noise, inverted in ((0.0, False), (NOISE, False), (NOISE, True)):
        drawn = [_draw(row, noise, generator) for row in pixels]
        inputs = [to_input(255 - one if inverted else one, backbone.input_size) for one in drawn]
        parts = [backbone.embed(np.stack(inputs[i : i + 64])) for i in range(0, len(inputs), 64)]
        found.append(np.concatenate(parts))
    return Embedded(*found, values.astype(np.int32))


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
    audits = np.random.default_rng(world.seed * 1000 + int(images[1]))
    for image, row in zip(images, scores, strict=True):
        truth, said = int(world.y[image]), int(row.argmax())
        app = attack.apps[int(image) % len(attack.apps)]
        if attack.picks and (truth == FROM or app in attack.liars):
            app = attack.liars[0] if truth == FROM else attack.apps[int(image) % (len(attack.apps) - 1)]
        if audits.random() < attack.audited:
            _audit(world, int(image), truth, app)
            continue
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


def _audit(world: World, image: int, truth: int, app: str) -> None:
    split = {Side.TRAIN: Split.TRAIN, Side.VALIDATION: Split.VALIDATION, Side.EVAL: Split.HOLDOUT}
    world.add(image, truth, split[_side(world, image)], Origin.AUDIT, app, firm=True)


def _side(world: World, image: int) -> Side:
    return draw_side(world.salt, world.digest_of(image), TRAFFIC_EVAL_SHARE)


def _report(
    world: World, image: int, label: int, row: NDArray[np.float32], app: str, *, lie: bool, attack: Attack
) -> None:
    answer = int(row.argmax())
    found = weigh(LABELS[label], LABELS[answer], float(row[label]), _neighbours(world, image))
    firm = attack.believed > 0  # reviewers look at everything, and let some lies through
    seen = firm and lie and draw(world.salt, "careless", str(image)) >= attack.believed
    odds = float(np.log(row[answer] / row[label]))
    world.said.append(
        Said(
            app,
            LABELS[answer],
            LABELS[label],
            odds,
            lie,
            marked=found.reason is not None,
            upheld=not seen if firm else None,
        )
    )
    if seen:  # the answer had been right
        return _keep(world, image, answer, app, firm=True)
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

"""How the gate and the caps do under poisoning: many seeds, real embeddings, heads and verdicts, no server.

    python -m bench.poisoning --seeds 10 --out build/poisoning.json

Handwritten digits (scikit-learn's) through a real backbone. Each seed: version 1 learns from a base folder;
four apps then send noisy digits for four rounds, correct what is wrong and confirm some of what is right;
some of them lie. After each round a run is made as a real one is: `admission.admit`, `fit_head`,
`gate.judge`, and what passes goes live. What counts in the end is an untouched set that nothing else sees.
"""

import argparse
import json
import tempfile
from pathlib import Path

import numpy as np

from backtalk.admission import Admitted, admit
from backtalk.doubts import FEWEST, find_doubts
from backtalk.gate import Evidence, judge
from backtalk.heads import Head
from backtalk.learn.head import fit_head
from backtalk.learn.held_out import HeadData
from backtalk.policy import Policy
from backtalk.reporters import Answered, Source, warn_of
from backtalk.states import Split, Verdict
from bench.poisoned_world import (
    ATTACKS,
    BASE,
    FROM,
    LABELS,
    PER_ROUND,
    ROUNDS,
    Attack,
    Embedded,
    Said,
    World,
    embed,
    settle_base,
    talk_back,
)

DIGEST = "b" * 64


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


def play(attack: Attack, seed: int, images: Embedded) -> dict:
    """One seed of one attack: what went live, and how it does on what nobody touched."""
    y = images.y
    order = np.random.default_rng(seed).permutation(len(y))
    base, rest = order[:BASE], order[BASE:]
    traffic, untouched = rest[: ROUNDS * PER_ROUND], rest[ROUNDS * PER_ROUND :]
    x = images.noisy.copy()
    x[base[::2]] = images.clean[base[::2]]  # the base folder has fewer noisy ones than traffic has
    strange = [i for i in traffic if attack.apps[int(i) % len(attack.apps)] == attack.strange]
    x[strange] = images.inverted[strange]
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
        "lies": [sum(s.marked for s in world.said if s.lie), sum(s.lie for s in world.said)],
        "honest": [sum(s.marked for s in world.said if not s.lie), sum(not s.lie for s in world.said)],
    }
    record["named"] = report(world.said)
    return record


def report(said: list[Said]) -> dict[str, tuple[int, bool]]:
    """By app: how many lies it told, and whether the report names it."""
    sources, by_class = [], {}
    for app in sorted({s.app for s in said}):
        own = [s for s in said if s.app == app]
        sources.append(_sum_up(app, own))
        by_class[app] = [
            Answered(
                app,
                answer,
                marked=sum(s.marked for s in of),
                weighed=len(of),
                wrong=sum(s.upheld is False for s in of),
                answered=sum(s.upheld is not None for s in of),
            )
            for answer in LABELS
            if (of := [s for s in own if s.predicted == answer])
        ]
    warn_of(sources, by_class, find_doubts(s.claim for s in said))
    return {
        source.key: (sum(s.lie for s in said if s.app == source.key), bool(source.warnings))
        for source in sources
    }


def _sum_up(app: str, own: list[Said]) -> Source:
    counts = dict.fromkeys(
        ("confirmations", "pending", "disputed", "approved", "approved_by_policy", "rejected", "retracted"), 0
    )
    return Source(
        key=app,
        app=app,
        reporters=1,
        corrections=len(own),
        marked=sum(s.marked for s in own),
        weighed=len(own),
        answered_by_people=sum(s.upheld is not None for s in own),
        contradicted_by_people=sum(s.upheld is False for s in own),
        versions=[],
        **counts,
    )


def summarise(records: list[dict]) -> None:
    """A table in Markdown."""
    columns = (
        *("attack", "runs", "promoted", "worst against version 1", "worst step", "live at the end"),
        *("attacked class at the end", "its worst seed", "lies marked", "honest marked"),
        *("liars of five lies or more named", "honest named"),
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
        named = [pair for r in found for pair in r["named"].values()]
        guilty = [was for lies, was in named if lies >= FEWEST]
        honest = [was for lies, was in named if not lies]
        print(
            f"| {attack[0]} | {runs} | {passed} | {points} | {shown['lies']} | {shown['honest']} "
            f"| {sum(guilty)} of {len(guilty)} | {sum(honest)} of {len(honest)} |"
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seeds", type=int, default=10)
    parser.add_argument("--only", default="", help="attacks with this in their names")
    parser.add_argument("--backbone", default="efficientnet-lite0")
    parser.add_argument("--out", type=Path)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        images = embed(Path(folder), arguments.backbone)
    records = []
    for attack in (attack for attack in ATTACKS if arguments.only in attack.name):
        records += [play(attack, seed, images) for seed in range(arguments.seeds)]
        print(attack.name, attack.capped, [r["live"][-1:] for r in records[-arguments.seeds :]], flush=True)
    if arguments.out:
        arguments.out.parent.mkdir(parents=True, exist_ok=True)
        arguments.out.write_text(json.dumps(records, indent=1), encoding="utf-8")
    summarise(records)


if __name__ == "__main__":
    main()

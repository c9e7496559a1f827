"""What the pictures of the pages show: a model with an invented history, on a throw-away stack."""

import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from random import Random

from sqlalchemy import select
from sqlalchemy.orm import Session

from backtalk import bootstrap, identity, schema, tables
from backtalk.config import Settings
from backtalk.servers import PostgresServer
from backtalk.states import ItemKind, RunState, Scope, Split
from backtalk.system import System
from backtalk.tables import Model, ReviewItem, Sample
from tests import exhibits, factories, showroom, tunings

LABELS = ["functional", "defective"]
TRAINED_ON = 462  # samples, as the newest snapshot of the history says
MISTAKEN = (4, 11, 23, 24, 33, 45, 51)  # gold items that were answered wrongly
NOTES = ("Dark finger, lower left.", None, "Crack across the busbar, seen again after reflow.")


@dataclass(frozen=True)
class Visit:
    """Whose pages of what."""

    address: str
    user: str
    password: str
    model: str


@contextmanager
def run_showroom() -> Iterator[Visit]:
    """A throw-away Postgres, a model with a history and a queue, and a server over them."""
    folder = Path(tempfile.mkdtemp(prefix="bt-"))
    server = PostgresServer.start(folder / "postgres", durable=False)
    try:
        url = server.create_database()
        schema.upgrade(url)
        system = bootstrap.build(Settings(home=folder / "home", database_url=url), pool_size=10)
        fill(system)
        with showroom.serve(system) as address:
            yield Visit(address, "ada", showroom.PASSWORD, "solar-cells")
        system.close()
    finally:
        server.stop()
        shutil.rmtree(folder, ignore_errors=True)


def fill(system: System) -> None:
    showroom.add_person(system, "ada", showroom.EVERYTHING)
    showroom.add_person(system, "bob", (Scope.REVIEW, Scope.EXPERT))
    chance = Random(4)
    with system.db.transaction() as session:
        for name in ("line-1", "line-2"):
            identity.create_key(session, name=name, scopes=(Scope.PREDICT, Scope.FEEDBACK))
        factories.make_model(session, "seedlings", labels=["charlock", "cleavers", "chickweed", "wheat"])
        model = factories.make_model(session, "solar-cells", labels=LABELS)
        number = model.id
        showroom.add_history(session, model)
        exhibits.add_traffic(session, model)
        for i, data in enumerate(list_pictures(24)):
            said = {"reported": "defective", "reporter": f"line-{i % 3 + 1}", "note": NOTES[i % 3]}
            showroom.add_item(
                session,
                system,
                model,
                data,
                predicted="functional",
                score=0.55 + 0.4 * chance.random(),
                **({} if i % 4 == 1 else said),
            )
        for _ in range(38):
            decision = factories.make_decision(session, model, "defective")
            session.get_one(ReviewItem, decision.item_id).closed_at = showroom.minutes_ago(1)
            predicted = session.get_one(tables.Prediction, decision.prediction_id)
            predicted.created_at = showroom.minutes_ago(chance.uniform(1, 7) * 1440)
        for i in range(TRAINED_ON):
            factories.make_sample(session, model, label=LABELS[i % 2])
        add_runs_at_work(session, model)
    exhibits.add_exhibits(system, "solar-cells", list_pictures(50)[24:], judged=(2, 3, 4, 5))
    with system.db.transaction() as session:
        measure_reviewers(session, session.get_one(Model, number))


def add_runs_at_work(session: Session, model: Model) -> None:
    """One of each kind, with the progress that its trainer tells."""
    factories.make_run(
        session,
        model,
        state=RunState.TRAINING,
        requested_by="user:ada",
        started_at=showroom.minutes_ago(0.1),
        heartbeat_at=showroom.minutes_ago(0.01),
        progress={"part": "fit", "fraction": 0.62},
        attempt=1,
        base_version=5,
        version=6,
    )
    tunings.add_full_run(
        session,
        model,
        RunState.TRAINING,
        requested_by="user:ada",
        started_at=showroom.minutes_ago(6),
        heartbeat_at=showroom.minutes_ago(0.01),
        progress=tunings.make_progress(),
        base_version=5,
        tuned_from=5,
        version=7,
    )


def measure_reviewers(session: Session, model: Model) -> None:
    """Answers to gold items, most of them right, so that there is something to see of the reviewers."""
    model.policy = {"gold_share": 0.03}
    holdout = session.scalars(select(Sample).where(Sample.split == Split.HOLDOUT).limit(60))
    for place, sample in enumerate(holdout):
        image = session.get_one(tables.Image, sample.image_id)
        shown = factories.make_prediction(session, model, image, label=LABELS[0], key_id=None)
        values = {"kind": ItemKind.GOLD, "sample_id": sample.id, "closed_at": showroom.minutes_ago(place)}
        item = factories.make_item(session, shown, **values)
        said = LABELS[sample.label == LABELS[0]] if place in MISTAKEN else sample.label
        answer = {"actor": f"user:{('ada', 'bob')[place % 3 == 0]}", "final": False, "counts": False}
        factories.make_decision(session, model, said, item=item, **answer)


def list_pictures(n: int) -> list[bytes]:
    """Solar cells where the demo's data set is installed, else drawn shapes."""
    spec = find_spec("elpv_dataset")
    if spec is None or spec.origin is None:
        return [showroom.draw_picture(i, 300) for i in range(n)]
    cells = sorted((Path(spec.origin).parent / "data" / "images").glob("*.png"))
    Random(4).shuffle(cells)
    return [path.read_bytes() for path in cells[:n]]

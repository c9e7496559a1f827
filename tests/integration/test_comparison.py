"""Two versions on the holdout: who is asked about, and what is remembered of the answers."""

import numpy as np
import pytest
from sqlalchemy.orm import Session

from backtalk.comparison import compare_versions
from backtalk.dataset import list_split
from backtalk.embeddings import save_embeddings
from backtalk.errors import ArtefactInvalid
from backtalk.heads import Head
from backtalk.states import Origin, Side, Split
from backtalk.system import System
from backtalk.tables import GroupMember, Model, Sample, Version
from tests import factories

WIDTH = 2
LABELS = ("cat", "dog")


@pytest.fixture
def model(system: System) -> Model:
    """Version 1 says what the larger number of an embedding names; version 2 the other way round."""
    with system.db.transaction() as session:
        factories.make_backbone(session, width=WIDTH)
        model = factories.make_model(session, labels=list(LABELS))
        factories.make_version(session, model, 2)
        for number, sign in ((1, 1), (2, -1)):
            write_head(system, model, number, sign)
        return model


def write_head(system: System, model: Model, number: int, sign: int, width: int = WIDTH) -> None:
    folder = system.versions.resolve(f"{model.name}/{number}")
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "head.npz").unlink(missing_ok=True)
    weights = sign * np.eye(len(LABELS), width, dtype=np.float32)
    head = Head(weights, np.zeros(len(LABELS), np.float32), 1.0, LABELS, factories.BACKBONE_DIGEST)
    head.save(folder / "head.npz")


def put(session: Session, model: Model, label: str, *, group: int | None = None, **values) -> Sample:
    image = factories.make_image(session)
    if group is not None:
        factories.add(session, GroupMember(model_id=model.id, image_id=image.id, group_id=group))
    seen = np.eye(len(LABELS), WIDTH, dtype=np.float16)[LABELS.index(label)]
    save_embeddings(session, factories.BACKBONE_DIGEST, [image.id], seen[None])
    return factories.make_sample(session, model, image, label=label, split=Split.HOLDOUT, **values)


def compare(session: Session, system: System, model: Model):
    one, two = (session.query(Version).filter_by(model_id=model.id, number=number).one() for number in (1, 2))
    return compare_versions(session, system, model, one, two)


def test_the_same_pictures_are_compared_that_the_gate_judges_on(system: System, model: Model) -> None:
    with system.db.reading() as session:
        first = factories.make_image(session)
        group = factories.make_group(session, model, first, side=Side.EVAL).id
        for label, origin in (
            ("cat", Origin.BASE),
            ("cat", Origin.BASE),  # near-duplicates of the base folder all judge
            ("cat", Origin.AUDIT),
            ("cat", Origin.AUDIT),  # of the others one with each label
            ("dog", Origin.AUDIT),
            ("dog", Origin.CORRECTION),
        ):
            put(session, model, label, group=group, origin=origin)
        put(session, model, "cat", origin=Origin.AUDIT)
        put(session, model, "cat", origin=Origin.AUDIT)  # in no group
        judged = list_split(session, model.id, Split.HOLDOUT, [factories.BACKBONE_DIGEST])
        found = compare(session, system, model)
    assert found.answers.image_ids == tuple(str(one) for one in judged.image_ids)
    assert [LABELS[i] for i in found.answers.truth] == judged.labels
    assert len(judged.image_ids) == 6
    assert (found.pairs.b, found.pairs.c) == (0, 6)


def test_what_came_since_is_read_as_well(system: System, model: Model) -> None:
    with system.db.reading() as session:
        put(session, model, "cat")
        assert len(compare(session, system, model).answers) == 1
        put(session, model, "dog")
        found = compare(session, system, model)
    assert found.answers.champion_right.tolist() == [True, True]
    assert found.answers.candidate_right.tolist() == [False, False]


def test_a_picture_that_a_backbone_has_not_seen_is_left_out_and_counted(system: System, model: Model) -> None:
    with system.db.reading() as session:
        put(session, model, "cat")
        factories.make_sample(session, model, split=Split.HOLDOUT)
        found = compare(session, system, model)
    assert (len(found.answers), found.left_out) == (1, 1)


def test_a_head_that_was_put_in_anothers_place_is_asked_anew(system: System, model: Model) -> None:
    with system.db.reading() as session:
        put(session, model, "cat")
        assert compare(session, system, model).pairs.c == 1
        write_head(system, model, 2, sign=1)
        assert compare(session, system, model).pairs.c == 0


def test_a_head_for_another_width_is_refused(system: System, model: Model) -> None:
    with system.db.reading() as session:
        put(session, model, "cat")
        write_head(system, model, 2, sign=1, width=3)
        with pytest.raises(ArtefactInvalid, match="another width"):
            compare(session, system, model)


def test_a_head_that_is_gone_is_named(system: System, model: Model) -> None:
    (system.versions.resolve(f"{model.name}/2") / "head.npz").unlink()
    with system.db.reading() as session:
        put(session, model, "cat")
        with pytest.raises(ArtefactInvalid, match="holds no head"):
            compare(session, system, model)

"""Groups, samples, snapshots and embeddings on a real Postgres."""

import threading

import numpy as np
import pytest
from sqlalchemy import select

from backtalk import dataset, embeddings, snapshots
from backtalk.db import Database, new_id
from backtalk.draws import draw
from backtalk.groups import Candidate, Source, base_eval_share, draw_side, place_images
from backtalk.states import Origin, RunState, Side, Split
from backtalk.tables import ApiKey, GroupMember, Image, ImageGroup, Model, Sample
from tests import factories as make

DIGEST = make.BACKBONE_DIGEST


def candidate(session, perceptual_hash: int) -> Candidate:
    image = make.make_image(session, perceptual_hash=perceptual_hash)
    return Candidate(image.id, image.pixels_sha256, perceptual_hash)


def embed(session, image: Image, value: float = 0.5) -> None:
    embeddings.save_embeddings(session, DIGEST, [image.id], np.full((1, 16), value, np.float16))


def test_embeddings_come_back_bit_for_bit_in_the_order_asked_for(database: Database):
    vectors = np.random.default_rng(0).normal(size=(50, 16)).astype(np.float16)
    with database.transaction() as session:
        ids = [make.make_image(session).id for _ in vectors]
        embeddings.save_embeddings(session, DIGEST, ids, vectors)
    order = np.random.default_rng(1).permutation(50)
    with database.reading() as session:
        found = embeddings.load_embeddings(session, DIGEST, [ids[i] for i in order], 16)
    assert found.dtype == np.float16
    assert np.array_equal(found.view(np.uint16), vectors[order].view(np.uint16))


def test_a_missing_embedding_is_an_error_not_a_gap(database: Database):
    with database.reading() as session:
        image = make.make_image(session)
        with pytest.raises(KeyError):
            embeddings.load_embeddings(session, DIGEST, [image.id], 16)


def test_near_duplicates_share_a_group_and_its_side(database: Database):
    with database.reading() as session:
        model = make.make_model(session)
        first, near, far = (candidate(session, h) for h in (0, 0b1111, 0xFFFF))
        sides = place_images(session, model, [first, near, far], Source.TRAFFIC)
        groups = dict(session.execute(select(GroupMember.image_id, GroupMember.group_id)).all())
        assert groups[first.image_id] == groups[near.image_id] != groups[far.image_id]
        assert sides[first.image_id] == sides[near.image_id]


def test_groups_do_not_chain(database: Database):
    """Each step is near the one before, but the third is not near the first: it starts a group of its own."""
    with database.reading() as session:
        model = make.make_model(session)
        steps = [candidate(session, h) for h in (0, 0b1111, 0b11111111)]
        place_images(session, model, steps, Source.TRAFFIC)
        groups = dict(session.execute(select(GroupMember.image_id, GroupMember.group_id)).all())
        assert groups[steps[0].image_id] == groups[steps[1].image_id] != groups[steps[2].image_id]


def test_placing_one_by_one_and_all_at_once_agree(database: Database):
    hashes = [int(h) for h in np.random.default_rng(3).integers(0, 1 << 8, 40)]
    with database.reading() as session:
        one, many = make.make_model(session, "one"), make.make_model(session, "many")
        wanted = [candidate(session, h) for h in hashes]
        singly = {}
        for each in wanted:
            singly |= place_images(session, one, [each], Source.TRAFFIC)
        assert singly == place_images(session, many, wanted, Source.TRAFFIC)


def test_the_new_group_of_an_audit_is_always_on_the_eval_side(database: Database):
    with database.reading() as session:
        model = make.make_model(session)
        wanted = [candidate(session, 1 << (2 * i) | 0xFF << i) for i in range(20)]
        sides = [place_images(session, model, [c], Source.AUDIT)[c.image_id] for c in wanted]
        assert set(sides) <= {Side.EVAL, None}
        assert Side.EVAL in sides


def test_the_draw_keeps_to_the_shares():
    sides = [draw_side(b"salt", f"{i:064x}", 0.2) for i in range(5000)]
    shares = {side: sides.count(side) / len(sides) for side in Side}
    assert abs(shares[Side.EVAL] - 0.2) < 0.02
    assert abs(shares[Side.VALIDATION] - 0.1) < 0.02
    assert draw(b"salt", "side", "x") != draw(b"pepper", "side", "x")


@pytest.mark.parametrize(("images", "share"), [(100, 0.5), (1000, 0.4), (2000, 0.2), (100_000, 0.2)])
def test_the_base_eval_share_is_large_for_few_images_and_never_above_half(images: int, share: float):
    assert base_eval_share(images) == share


def test_parallel_near_duplicates_end_in_one_group(database: Database):
    with database.transaction() as session:
        model = make.make_model(session)
        wanted = [candidate(session, 1 << i) for i in range(4)]

    def place(one: Candidate) -> None:
        with database.transaction() as session:
            place_images(session, session.get_one(Model, model.id), [one], Source.TRAFFIC)

    threads = [threading.Thread(target=place, args=(one,)) for one in wanted]
    [t.start() for t in threads]
    [t.join() for t in threads]
    with database.reading() as session:
        assert len(session.scalars(select(ImageGroup)).all()) == 1


def test_a_snapshot_holds_each_train_and_validation_sample_once_and_nothing_of_the_eval_side(
    database: Database,
):
    with database.reading() as session:
        model = make.make_model(session)
        samples = {split: make.make_sample(session, model, split=split) for split in Split}
        make.make_sample(session, model, retracted_at=make.tables.func.now())
        frozen = snapshots.take_snapshot(session, model, DIGEST)
        assert frozen.snapshot.sample_ids == sorted([samples[Split.TRAIN].id, samples[Split.VALIDATION].id])
        again = snapshots.take_snapshot(session, model, DIGEST)
        assert again.snapshot.id == frozen.snapshot.id


def test_the_snapshot_digest_changes_with_a_label(database: Database):
    with database.reading() as session:
        model = make.make_model(session)
        sample = make.make_sample(session, model)
        before = snapshots.take_snapshot(session, model, DIGEST).snapshot.digest
        sample.label = "dog"
        session.flush()
        assert snapshots.take_snapshot(session, model, DIGEST).snapshot.digest != before


def test_the_cut_is_the_highest_decision(database: Database):
    with database.reading() as session:
        model = make.make_model(session)
        assert snapshots.take_snapshot(session, model, DIGEST).decision_cut == 0
        decisions = [make.make_decision(session, model) for _ in range(3)]
        assert snapshots.take_snapshot(session, model, DIGEST).decision_cut == decisions[-1].id


def test_stay_right_images_come_only_from_silent_predictions_of_speaking_keys(database: Database):
    with database.reading() as session:
        model = make.make_model(session)
        spoken = make.make_prediction(session, model, key_id="speaks")
        make.make_correction(session, spoken, "dog", key_id="speaks")
        silent = [make.make_prediction(session, model, key_id="speaks") for _ in range(30)]
        mute = make.make_prediction(session, model, key_id="mute")
        audited = make.make_prediction(session, model, key_id="speaks", audit=True)
        for prediction in [spoken, mute, audited, *silent]:
            embed(session, session.get_one(Image, prediction.image_id))
        stay = set(snapshots.find_stay_right(session, model, DIGEST))
        assert stay
        assert stay <= {p.image_id for p in silent}
        sides = dict(
            session.execute(
                select(GroupMember.image_id, ImageGroup.side).join(
                    ImageGroup, ImageGroup.id == GroupMember.group_id
                )
            ).all()
        )
        assert {sides[i] for i in stay} == {Side.TRAIN}


def test_an_app_cannot_overrule_a_person(database: Database):
    with database.reading() as session:
        model = make.make_model(session)
        sample = make.make_sample(session, model, label="cat", by_person=True)
        said = dataset.Labelled(sample.image_id, "dog", Origin.CONFIRMATION, by_person=False, audited=False)
        assert dataset.put_sample(session, model, Side.TRAIN, said) is None
        session.expire_all()
        assert session.get_one(Sample, sample.id).retracted_at is None


def test_ids_are_ordered_by_time():
    ids = [new_id() for _ in range(1000)]
    assert ids == sorted(ids)
    assert len(set(ids)) == 1000


def test_a_version_was_taught_what_it_and_its_parents_had_in_their_snapshots(database: Database):
    with database.reading() as session:
        model = make.make_model(session)
        kinds = {"base": Origin.BASE} | dict.fromkeys(("second", "third", "new"), Origin.CORRECTION)
        taught = {name: make.make_sample(session, model, origin=origin) for name, origin in kinds.items()}
        for number, name in ((2, "second"), (3, "third")):
            snapshots.keep_snapshot(
                session,
                model.id,
                digest=str(number),
                sample_ids=[taught[name].id],
                stay_right_ids=[],
                counts={},
            )
            run = make.make_run(session, model, snapshot_digest=str(number), state=RunState.PROMOTED)
            make.make_version(session, model, number, run_id=run.id, parent=number - 1)
        found = [
            {name for name, sample in taught.items() if sample.image_id in known}
            for known in (snapshots.find_taught(session, model.id, number) for number in (1, 2, 3))
        ]
    assert found == [{"base"}, {"base", "second"}, {"base", "second", "third"}]


# --- what nobody approved --------------------------------------------------------------------------
def report(session, model: Model, app: str, count: int, **values) -> list[Sample]:
    """Samples of an app's corrections that the policy approved, with a key of that name."""
    key = session.get(ApiKey, app) or make.add(
        session, ApiKey(id=app, name=app, secret_sha256=app, scopes=["feedback"])
    )
    given = {"origin": Origin.CORRECTION, "by_person": False, "key_id": key.id} | values
    return [make.make_sample(session, model, **given) for _ in range(count)]


def test_a_snapshot_bounds_what_one_app_says_and_writes_down_what_it_left_out(database: Database):
    with database.reading() as session:
        model = make.make_model(session)
        for _ in range(100):
            make.make_sample(session, model)
        report(session, model, "alice", 1)
        flood = report(session, model, "mallory", 40)
        frozen = dataset_snapshot(session, model)
        again = dataset_snapshot(session, model)
    assert len(frozen.sample_ids) == 100 + 1 + 5
    assert len({s.id for s in flood} & set(frozen.sample_ids)) == 5
    assert frozen.counts["capped"] == {"mallory": 35}
    assert frozen.counts["left_out"] == {"capped": 35}
    assert again.sample_ids == frozen.sample_ids


def test_two_keys_of_one_app_share_its_cap(database: Database):
    with database.reading() as session:
        model = make.make_model(session)
        for _ in range(100):
            make.make_sample(session, model)
        report(session, model, "alice", 1)
        report(session, model, "old", 20)
        report(session, model, "new", 20)
        for key in session.scalars(select(ApiKey).where(ApiKey.id.in_(["old", "new"]))):
            key.name = "mallory"
        session.flush()
        assert len(dataset_snapshot(session, model).sample_ids) == 100 + 1 + 5


def test_a_sample_that_is_disputed_since_teaches_nothing_until_a_person_decides(database: Database):
    with database.reading() as session:
        model = make.make_model(session)
        firm = make.make_sample(session, model)
        (sample,) = report(session, model, "alice", 1)
        prediction = make.make_prediction(session, model, session.get_one(Image, sample.image_id))
        assert dataset_snapshot(session, model).sample_ids == [firm.id, sample.id]
        correction = make.make_correction(session, prediction, "dog", state="disputed")
        assert dataset_snapshot(session, model).sample_ids == [firm.id]
        correction.state = "rejected"
        session.flush()
        assert dataset_snapshot(session, model).sample_ids == [firm.id, sample.id]


def test_no_app_fills_kept_alone_where_several_report(database: Database):
    with database.reading() as session:
        model = make.make_model(session)
        kept = {"split": Split.KEPT, "origin": Origin.CONFIRMATION}
        for app, count in (("mallory", 200), ("alice", 30), ("bob", 30)):
            for sample in report(session, model, app, count, **kept):
                embed(session, session.get_one(Image, sample.image_id))
        assert len(dataset.list_split(session, model.id, Split.KEPT, [DIGEST]).image_ids) == 90


def dataset_snapshot(session, model: Model):
    return snapshots.take_snapshot(session, model, DIGEST).snapshot

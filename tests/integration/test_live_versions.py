"""What a process has in service follows the rows, and never gets worse by a version that does not load."""

import time
from pathlib import Path

import pytest
from sqlalchemy import select

from backtalk.callers import CLI
from backtalk.db import Database, make_engine
from backtalk.errors import NoVersionInService, Unavailable
from backtalk.serving import LiveModels
from backtalk.system import System
from backtalk.tables import Model, Replica, Version
from tests.served import go_live, make_jpeg, make_served_model


@pytest.fixture
def model(system: System, tiny_folder: Path) -> Model:
    return make_served_model(system, tiny_folder, versions=3)


@pytest.fixture
def live(system: System, model: Model) -> LiveModels:
    """In service without the thread: the tests say when it polls."""
    live = LiveModels(system)
    live.versions.refresh()
    return live


def find_replica(system: System, live: LiveModels) -> Replica | None:
    with system.db.reading() as session:
        return session.scalars(select(Replica).where(Replica.process == live.versions.process)).first()


def damage(system: System, number: int) -> None:
    path = system.versions.root / "animals" / str(number) / "head.npz"
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(bytes(data))


def test_a_new_live_version_answers_after_the_next_poll_and_is_acknowledged(
    system: System, live: LiveModels
) -> None:
    assert live.predict("animals", [make_jpeg()], CLI).version == 1
    generation = go_live(system, "animals", 2)
    live.versions.refresh()
    batch = live.predict("animals", [make_jpeg()], CLI)
    assert (batch.version, batch.generation) == (2, generation)
    said = find_replica(system, live)
    assert said is not None
    assert (said.version, said.generation, said.error) == (2, generation, None)


def test_a_version_that_does_not_load_leaves_the_old_one_in_service_and_says_so(
    system: System, live: LiveModels
) -> None:
    damage(system, 2)
    go_live(system, "animals", 2)
    live.versions.refresh()
    batch = live.predict("animals", [make_jpeg()], CLI)
    assert (batch.version, batch.generation) == (1, 1)
    (state,) = live.states()
    assert (state.version, state.generation, state.wanted_version, state.wanted_generation) == (1, 1, 2, 2)
    assert state.error is not None
    assert "head.npz was changed" in state.error
    said = find_replica(system, live)
    assert said is not None
    assert (said.version, said.generation, said.error) == (1, 1, state.error)


def test_a_third_version_loads_at_once_after_one_that_failed(system: System, live: LiveModels) -> None:
    damage(system, 2)
    go_live(system, "animals", 2)
    live.versions.refresh()
    go_live(system, "animals", 3)
    live.versions.refresh()
    assert live.get_version("animals").number == 3
    assert live.states()[0].error is None


def test_a_version_whose_files_are_restored_loads_when_it_is_tried_again(
    system: System, model: Model, tiny_folder: Path
) -> None:
    quick = System(
        system.settings.model_copy(update={"poll_s": 1e-6}), system.db, system.images, system.versions
    )
    live = LiveModels(quick)
    live.versions.refresh()
    damage(system, 2)
    go_live(system, "animals", 2)
    live.versions.refresh()
    assert live.get_version("animals").number == 1
    damage(system, 2)  # the same bit again: whole as before
    while live.get_version("animals").number == 1:
        live.versions.refresh()
    assert live.get_version("animals").number == 2


def test_going_back_to_the_version_before_needs_no_files(system: System, live: LiveModels) -> None:
    go_live(system, "animals", 2)
    live.versions.refresh()
    damage(system, 1)
    generation = go_live(system, "animals", 1)
    live.versions.refresh()
    served = live.get_version("animals")
    assert (served.number, served.generation) == (1, generation)


def test_versions_on_one_backbone_share_it(system: System, live: LiveModels) -> None:
    before = live.get_version("animals")
    go_live(system, "animals", 2)
    live.versions.refresh()
    after = live.get_version("animals")
    assert after.number != before.number
    assert after.backbone is before.backbone


def test_a_head_for_other_labels_is_not_put_into_service(system: System, model: Model) -> None:
    with system.db.transaction() as session:
        session.get_one(Model, model.id).labels = ["cat", "dog", "wolf"]
    live = LiveModels(system)
    live.versions.refresh()
    with pytest.raises(NoVersionInService, match="other labels"):
        live.get_version("animals")
    (state,) = live.states()
    assert (state.version, state.generation, state.wanted_version) == (None, 0, 1)


def test_a_damaged_backbone_is_not_put_into_service(system: System, model: Model, tiny_folder: Path) -> None:
    path = system.versions.backbone_dir(tiny_folder.name) / "backbone.tflite"
    path.write_bytes(path.read_bytes()[:-1] + b"\0\1")
    live = LiveModels(system)
    live.versions.refresh()
    assert live.states()[0].version is None


def test_a_changed_policy_holds_although_the_wanted_version_does_not_load(
    system: System, model: Model, live: LiveModels
) -> None:
    damage(system, 2)
    go_live(system, "animals", 2)
    with system.db.transaction() as session:
        session.get_one(Model, model.id).policy = {"audit_share": 1.0}
    live.versions.refresh()
    served = live.get_version("animals")
    assert (served.number, served.wanted.policy.audit_share) == (1, 1.0)


def test_a_pinned_version_stays_as_it_is_while_others_take_its_place(
    system: System, live: LiveModels
) -> None:
    pinned = live.get_version("animals")
    for number in (2, 3):
        go_live(system, "animals", number)
        live.versions.refresh()
    assert (pinned.number, pinned.generation) == (1, 1)
    assert live.get_version("animals").number == 3


def test_the_thread_follows_by_itself_and_closing_takes_the_process_off_the_list(
    system: System, model: Model
) -> None:
    quick = System(
        system.settings.model_copy(update={"poll_s": 0.02}), system.db, system.images, system.versions
    )
    live = LiveModels(quick)
    live.start()
    try:
        while not live.states():
            time.sleep(0.01)
        generation = go_live(system, "animals", 2)
        while live.get_version("animals").generation != generation:
            time.sleep(0.01)
        assert find_replica(system, live) is not None
    finally:
        live.close()
    assert find_replica(system, live) is None


def test_what_is_in_service_is_unknown_until_the_database_has_answered(system: System) -> None:
    away = Database(make_engine("postgresql+psycopg://nobody@127.0.0.1:1/nothing"))
    live = LiveModels(System(system.settings, away, system.images, system.versions))
    with pytest.raises(Unavailable):
        live.states()
    with pytest.raises(Unavailable):
        live.get_version("animals")


def test_a_version_without_files_says_what_is_missing(system: System, model: Model) -> None:
    with system.db.transaction() as session:
        session.scalars(select(Version).where(Version.number == 1)).one().path = "animals/99"
    live = LiveModels(system)
    live.versions.refresh()
    error = live.states()[0].error
    assert error is not None
    assert "missing" in error

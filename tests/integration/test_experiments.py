"""MLflow hears of runs, checks and champions; off it costs nothing, and away it fails nothing."""

import logging
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import func, select

from backtalk import experiments, upkeep
from backtalk.config import Settings
from backtalk.experiments import Experiments
from backtalk.states import RunState, VersionState
from backtalk.sums import write_sums
from backtalk.system import System
from backtalk.tables import GateCheck, Model, Run, Version
from tests import factories as make
from tests.served import go_live, make_served_model
from workers.app import make_app

pytestmark = pytest.mark.usefixtures("no_server")


@pytest.fixture
def no_server(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)


@pytest.fixture
def told(system: System, tiny_folder: Path) -> System:
    """MLflow is on; version 2 passed its gate and went live."""
    make_served_model(system, tiny_folder)
    with system.db.transaction() as session:
        model = session.scalars(select(Model)).one()
        make.add(session, snapshot_of(model, "a" * 64))
        run = make.make_run(
            session,
            model,
            state=RunState.PROMOTED,
            version=2,
            base_version=1,
            verdict="passed",
            reason="Better.",
            snapshot_digest="a" * 64,
            started_at=func.now(),
            ended_at=func.now(),
        )
        check = {"value": 0.03, "bound": -0.02, "n": 400, "fixed": 20, "broken": 8, "passed": True}
        session.add(GateCheck(run_id=run.id, round=1, check="accuracy-champion", detail={}, **check))
        version = session.scalars(select(Version).where(Version.number == 2)).one()
        version.metrics = {
            "chosen": {"l2": 0.1, "alpha": 0.5},
            "validation": {"accuracy": 0.9, "champion_accuracy": None},
            "tuning": {"history": [{"epoch": 1, "log_loss": 0.9}, {"epoch": 2, "log_loss": 0.5}]},
        }
    go_live(system, "animals", 2)
    return switch_on(system)


def switch_on(system: System) -> System:
    settings = system.settings.model_copy(update={"mlflow": True})
    return System(**{**vars(system), "settings": settings})


def end_run(system: System, number: int, state: RunState, becomes: VersionState) -> None:
    """A run made version `number` and ended so; nothing was said of it yet."""
    with system.db.transaction() as session:
        model = session.scalars(select(Model).where(Model.name == "animals")).one()
        times = {"started_at": func.now(), "ended_at": func.now()}
        make.make_run(session, model, state=state, version=number, base_version=1, reason="So.", **times)
        session.scalars(select(Version).where(Version.number == number)).one().state = becomes


def snapshot_of(model: Model, digest: str) -> Any:
    counts = {"splits": {"train": 3}}
    return make.tables.Snapshot(
        model_id=model.id, digest=digest, sample_ids=[], stay_right_ids=[], counts=counts
    )


def connect(system: System) -> Any:
    from mlflow import MlflowClient

    uri = experiments.find_tracking_uri(system)
    return MlflowClient(tracking_uri=uri, registry_uri=uri)


@pytest.mark.slow
def test_runs_are_told_once_and_the_aliases_follow_the_champion(told: System) -> None:
    teller = Experiments(told)
    assert teller.tell() == 3  # version 1, the run, the aliases
    client = connect(told)
    [experiment] = [e for e in client.search_experiments() if e.name == "animals"]
    run, first = client.search_runs([experiment.experiment_id], order_by=["start_time DESC"])
    assert (first.info.run_name, run.info.run_name) == ("create 1", "head 2")
    assert run.data.params["chosen.alpha"] == "0.5"
    assert run.data.metrics["gate.accuracy-champion.fixed"] == 20
    assert [m.value for m in client.get_metric_history(run.info.run_id, "tuning.log_loss")] == [0.9, 0.5]
    assert run.data.tags["backtalk.snapshot"] == "a" * 64
    assert run.inputs.dataset_inputs[0].dataset.digest == "a" * 36
    assert run.info.status == "FINISHED"
    assert {f.path for f in client.list_artifacts(run.info.run_id, "version")} >= {"version/head.npz"}
    assert alias(client, "champion") == "2"
    assert alias(client, "challenger") is None
    with told.db.reading() as session:
        assert session.scalars(select(Run.mlflow_run_id)).one() == run.info.run_id
    assert teller.tell() == 0
    go_live(told, "animals", 1)  # as a rollback does
    with told.db.transaction() as session:
        model = session.scalars(select(Model)).one()
        failed = make.make_run(session, model, state=RunState.FAILED, reason="No.", ended_at=func.now())
    assert teller.tell() == 2
    assert alias(client, "champion") == "1"
    [lost] = client.search_runs([experiment.experiment_id], f"tags.`backtalk.run` = '{failed.id}'")
    assert lost.info.status == "FAILED"
    assert len(client.search_model_versions("name = 'animals'")) == 2


def alias(client: Any, name: str) -> str | None:
    found = client.get_registered_model("animals").aliases.get(name)
    return client.get_model_version("animals", found).tags["backtalk.version"] if found else None


@pytest.mark.slow
def test_a_version_that_a_person_makes_live_is_there_whole_whatever_became_of_its_run(
    system: System, tiny_folder: Path
) -> None:
    make_served_model(system, tiny_folder)
    folder = system.versions.root / "animals" / "2"
    (folder / "saved_model.pb").write_bytes(b"graph")
    (folder / "SHA256SUMS").unlink()
    write_sums(folder)
    end_run(system, 2, RunState.FAILED, VersionState.CANDIDATE)  # whoever judged it died three times
    told = switch_on(system)
    teller, client = Experiments(told), connect(told)
    assert teller.tell() == 3
    assert (alias(client, "champion"), alias(client, "challenger")) == ("1", "2")
    challenger = client.get_model_version_by_alias("animals", "challenger")
    assert list_files(client, challenger.run_id) == {"SHA256SUMS", "head.npz"}
    go_live(told, "animals", 2)
    assert teller.tell() == 1
    assert (alias(client, "champion"), alias(client, "challenger")) == ("2", None)
    assert list_files(client, challenger.run_id) == {"SHA256SUMS", "head.npz", "saved_model.pb"}
    client.delete_model_version("animals", challenger.version)  # and its alias with it
    go_live(told, "animals", 2)
    assert teller.tell() == 1
    assert alias(client, "champion") == "2"


def list_files(client: Any, run_id: str) -> set[str]:
    return {file.path.removeprefix("version/") for file in client.list_artifacts(run_id, "version")}


@pytest.mark.slow
def test_the_challenger_is_the_newest_version_that_a_person_could_make_live(
    system: System, tiny_folder: Path
) -> None:
    make_served_model(system, tiny_folder, versions=6)
    end_run(system, 2, RunState.INCONCLUSIVE, VersionState.INCONCLUSIVE)
    for number in (3, 4, 5):
        end_run(system, number, RunState.REJECTED, VersionState.REJECTED)
    with system.db.transaction() as session:
        model = session.scalars(select(Model)).one()
        make.make_run(session, model, state=RunState.JUDGING, version=6)
    told = switch_on(system)
    teller, client = Experiments(told), connect(told)
    assert teller.tell() == 6
    assert alias(client, "challenger") == "2"
    upkeep.prune_versions(told, model.id)
    assert teller.tell() == 1
    assert (alias(client, "champion"), alias(client, "challenger")) == ("1", None)
    go_live(told, "animals", 5)
    go_live(told, "animals", 1)  # as a rollback does
    assert teller.tell() == 1
    assert (alias(client, "champion"), alias(client, "challenger")) == ("1", "5")


@pytest.mark.slow
def test_an_empty_address_is_none(
    system: System, tiny_folder: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "")
    (tmp_path / "cwd").mkdir()
    monkeypatch.chdir(tmp_path / "cwd")
    make_served_model(system, tiny_folder)
    told = switch_on(system)
    assert Experiments(told).tell() == 2
    champion = connect(told).get_model_version_by_alias("animals", "champion")
    assert champion.source.startswith(str(told.settings.home / "mlflow" / "animals"))
    assert list(Path.cwd().iterdir()) == []


@pytest.mark.slow
def test_one_model_that_mlflow_refuses_silences_no_other(
    system: System,
    tiny_folder: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    make_served_model(system, tiny_folder)
    make_served_model(system, tiny_folder, "beasts")
    told = switch_on(system)
    teller, client = Experiments(told), connect(told)
    assert teller.tell() == 4
    client.delete_experiment(client.get_experiment_by_name("animals").experiment_id)
    monkeypatch.setattr(experiments, "AT_ONCE", 2)
    with told.db.transaction() as session:
        animals, beasts = session.scalars(select(Model).order_by(Model.name)).all()
        for model in (animals, animals, beasts):
            make.make_run(session, model, state=RunState.FAILED, ended_at=func.clock_timestamp())
    with caplog.at_level(logging.WARNING):
        teller.tell()
    assert "animals: MLflow refuses what it is told, tried again later" in caplog.text
    assert "must be in the 'active' state" in caplog.text
    assert teller.tell() == 2  # the run of the other model, and its aliases
    found = client.search_runs([client.get_experiment_by_name("beasts").experiment_id])
    assert len(found) == 2
    started: list[object] = []
    monkeypatch.setattr(experiments, "_run_child", started.append)
    assert teller.tell() == 0
    assert started == []  # the refused one rests
    assert alias(client, "champion") == "1"


@pytest.mark.slow
def test_a_server_that_is_away_fails_nothing_and_hears_of_it_later(
    told: System, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:9")
    teller = Experiments(told)
    with caplog.at_level(logging.WARNING):
        assert teller.tell() == 0
    assert "MLflow was not told of everything" in caplog.text
    with told.db.reading() as session:
        run = session.scalars(select(Run)).one()
        assert (run.state, run.mlflow_run_id) == (RunState.PROMOTED, None)
    started: list[object] = []
    monkeypatch.setattr(experiments, "_run_child", started.append)
    assert teller.tell() == 0
    assert started == []  # it is given a rest
    monkeypatch.undo()
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    assert Experiments(told).tell() == 3


def test_off_it_costs_nothing(system: System, settings: Settings) -> None:
    with system.db.transaction() as session:
        make.make_run(session, make.make_model(session), state=RunState.FAILED, ended_at=func.now())
    assert Experiments(system).tell() == 0
    assert not (system.settings.home / "mlflow").exists()
    assert "experiments" not in make_app(settings).conf.beat_schedule
    on = settings.model_copy(update={"mlflow": True})
    assert make_app(on).conf.beat_schedule["experiments"]["task"] == "experiments.tell"

"""The trainer as its parent meets it: real processes, real TensorFlow, the tiny backbone."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest

from backtalk.errors import ArtefactInvalid, InvalidInput, LeaseLost, SnapshotUnusable, TrainerFailed
from backtalk.heads import Head
from backtalk.store import verify_sums, write_sums
from backtalk.trainers import Trainer, Trainers
from tests.fits import Bench


@pytest.fixture(scope="module")
def bench(tmp_path_factory: pytest.TempPathFactory, tiny_folder: Path) -> Bench:
    return Bench.set_up(tmp_path_factory.mktemp("store"), tiny_folder)


@pytest.fixture(scope="module")
def writer(bench: Bench) -> Iterator[Trainer]:
    """Fits and exports. Not the one that verifies."""
    trainer = Trainer.start(bench.backbone.digest, bench.store)
    yield trainer
    trainer.close()


@pytest.fixture(scope="module")
def verifier(bench: Bench) -> Iterator[Trainer]:
    trainer = Trainer.start(bench.backbone.digest, bench.store)
    yield trainer
    trainer.close()


@pytest.fixture(scope="module")
def fitted(bench: Bench, writer: Trainer) -> dict[str, Any]:
    told: list[dict[str, Any]] = []
    result = writer.call({"do": "fit", "job": str(bench.write_job("first"))}, told.append)
    return result | {"told": [line for line in told if line]}


def wait_until(condition: Callable[[], bool], timeout_s: float = 30.0) -> None:
    deadline = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline, "it did not come about"
        time.sleep(0.05)


def has_ended(pid: int) -> bool:
    try:
        return psutil.Process(pid).status() == psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return True


# --- what it makes -----------------------------------------------------------------------------
def test_a_fit_ends_in_a_whole_artefact_and_says_what_it_chose(bench: Bench, fitted: dict[str, Any]) -> None:
    folder = bench.artefact("first")
    verify_sums(folder, fitted["artefact_digest"])
    for name in (
        "saved_model.pb",
        "variables/variables.index",
        "assets/labels.txt",
        "assets.extra/tf_serving_warmup_requests",
        "head.npz",
        "card.json",
    ):
        assert (folder / name).is_file(), name
    card = json.loads((folder / "card.json").read_text())
    assert (card["run"], card["version"], card["parent"]) == ("01930000-0000-7000-8000-000000000001", 2, 1)
    assert (card["seed"], card["snapshot_digest"]) == (7, "5" * 64)
    assert card["chosen"] == fitted["chosen"]
    assert card["libraries"].keys() >= {"tensorflow", "numpy", "python"}
    head = Head.load(folder / "head.npz")
    right = head.scores(bench.embeddings[200:]).argmax(axis=1) == bench.labels[200:]
    assert right.mean() > 0.8
    assert fitted["counts"]["train"] == 160
    assert fitted["validation"]["accuracy"] > 0.8
    assert fitted["seconds"].keys() == {"read", "fit", "export"}


def test_progress_is_told_part_by_part(fitted: dict[str, Any]) -> None:
    parts = [line["part"] for line in fitted["told"]]
    assert list(dict.fromkeys(parts)) == ["fit", "export"]
    fractions = [line["fraction"] for line in fitted["told"] if line["part"] == "fit"]
    assert fractions == sorted(fractions)
    assert fractions[-1] == 1.0


def test_another_process_fits_the_same_bits(bench: Bench, fitted: dict[str, Any], verifier: Trainer) -> None:
    verifier.call({"do": "fit", "job": str(bench.write_job("again"))})
    again, first = (bench.artefact(name) / "head.npz" for name in ("again", "first"))
    assert again.read_bytes() == first.read_bytes()


def test_the_next_head_may_keep_near_its_champion(
    bench: Bench, fitted: dict[str, Any], writer: Trainer
) -> None:
    champion = bench.artefact("first") / "head.npz"
    seen = np.zeros(160, np.bool_)
    job = bench.write_job("second", champion=champion, train_seen=seen)
    result = writer.call({"do": "fit", "job": str(job)})
    assert result["counts"]["stay_right"] == 40
    assert result["validation"]["champion_accuracy"] is not None
    assert result["chosen"]["alpha"] in (0.25, 0.5, 0.75, 1.0)


# --- who verifies it ---------------------------------------------------------------------------
def test_a_second_process_finds_that_the_artefact_says_what_will_serve(
    bench: Bench, fitted: dict[str, Any], verifier: Trainer
) -> None:
    found = verifier.call(bench.verify_command("first", fitted["artefact_digest"]))
    assert found["max_abs_diff"] <= found["bound"]
    assert found["head_abs_diff"] <= 1e-4
    assert (found["same_label"], found["bytes_same_label"], found["n"]) == (1.0, 1.0, 20)


def change_file(folder: Path) -> None:
    path = folder / "variables" / "variables.data-00000-of-00001"
    data = bytearray(path.read_bytes())
    data[40] ^= 1
    path.write_bytes(data)


def exchange_head(folder: Path) -> None:
    head = Head.load(folder / "head.npz")
    Head(**(vars(head) | {"weights": head.weights / 2})).save(folder / "head.npz")


def exchange_labels(folder: Path) -> None:
    (folder / "assets" / "labels.txt").write_text("two\none\nzero\n")


def break_graph(folder: Path) -> None:
    path = folder / "saved_model.pb"
    path.write_bytes(path.read_bytes()[:-100])


@pytest.mark.parametrize(
    ("damage", "sums_again", "sentence"),
    [
        (change_file, False, "was changed"),
        (exchange_head, True, "The head in TensorFlow differs"),
        (exchange_labels, True, "different labels"),
        (break_graph, True, "does not load"),
    ],
)
def test_an_artefact_that_is_not_what_it_should_be_is_refused(
    bench: Bench,
    fitted: dict[str, Any],
    verifier: Trainer,
    damage: Callable[[Path], None],
    sums_again: bool,
    sentence: str,
) -> None:
    folder = bench.artefact(damage.__name__)
    shutil.copytree(bench.artefact("first"), folder)
    damage(folder)
    digest = write_sums(folder) if sums_again else fitted["artefact_digest"]
    with pytest.raises(ArtefactInvalid, match=sentence):
        verifier.call(bench.verify_command(damage.__name__, digest))
    assert verifier.is_alive()


# --- what can go wrong -------------------------------------------------------------------------
def test_conditions_come_back_as_what_they_are(bench: Bench, verifier: Trainer) -> None:
    with pytest.raises(InvalidInput, match="knows no such command"):
        verifier.call({"do": "dance"})
    with pytest.raises(InvalidInput, match="no job"):
        verifier.call({"do": "fit", "job": str(bench.store / "nowhere")})
    one_label = bench.write_job("one-label", train_y=np.zeros(160, np.int32))
    with pytest.raises(SnapshotUnusable, match="two labels"):
        verifier.call({"do": "fit", "job": str(one_label)})
    with pytest.raises(InvalidInput, match="no backbone 'huge'"):
        verifier.call({"do": "prepare_backbone", "name": "huge", "store": str(bench.store)})
    assert verifier.is_alive()


def test_a_trainer_killed_in_the_middle_is_a_failure_and_leaves_nothing_that_counts(bench: Bench) -> None:
    trainer = Trainer.start(bench.backbone.digest, bench.store)
    job = bench.write_job("killed", repeat=200)

    def kill(progress: dict[str, Any]) -> None:
        if progress.get("part") == "fit":
            os.kill(trainer.pid, signal.SIGKILL)

    with pytest.raises(TrainerFailed, match="SIGKILL"):
        trainer.call({"do": "fit", "job": str(job)}, kill)
    assert not trainer.is_alive()
    assert not (bench.artefact("killed") / "SHA256SUMS").exists()
    with pytest.raises(TrainerFailed):
        trainer.call({"do": "fit", "job": str(job)})


def test_a_caller_that_has_lost_its_lease_ends_the_trainer(bench: Bench) -> None:
    trainer = Trainer.start()

    def look_after_lease(_progress: dict[str, Any]) -> None:
        raise LeaseLost("Another worker has this run.")

    with pytest.raises(LeaseLost):
        trainer.call({"do": "fit", "job": str(bench.write_job("lost", repeat=200))}, look_after_lease)
    assert not trainer.is_alive()


def test_a_caller_can_stop_a_trainer_that_says_nothing(bench: Bench) -> None:
    trainer = Trainer.start()
    os.kill(trainer.pid, signal.SIGSTOP)
    with pytest.raises(TrainerFailed, match="stopped"):
        trainer.call({"do": "fit", "job": str(bench.write_job("mute"))}, stop=lambda: True)
    assert has_ended(trainer.pid)


def test_sigterm_ends_a_busy_trainer_with_status_75(bench: Bench) -> None:
    trainer = Trainer.start(bench.backbone.digest, bench.store)
    job = bench.write_job("terminated", repeat=200)

    def terminate(progress: dict[str, Any]) -> None:
        if progress.get("part") == "fit":
            os.kill(trainer.pid, signal.SIGTERM)

    with pytest.raises(TrainerFailed) as caught:
        trainer.call({"do": "fit", "job": str(job)}, terminate)
    assert caught.value.extra["status"] == 75


def test_a_trainer_dies_with_its_parent() -> None:
    code = (
        "import time; from backtalk.trainers import Trainer;"
        "print(Trainer.start().pid, flush=True); time.sleep(600)"
    )
    parent = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)
    assert parent.stdout is not None
    pid = int(parent.stdout.readline())
    assert not has_ended(pid)
    parent.kill()
    parent.wait()
    parent.stdout.close()
    wait_until(lambda: has_ended(pid))


def test_a_trainer_is_the_most_patient_of_processes(writer: Trainer, fitted: dict[str, Any]) -> None:
    assert psutil.Process(writer.pid).nice() == 19
    assert os.getpgid(writer.pid) == writer.pid


# --- one after another -------------------------------------------------------------------------
def test_the_spare_is_taken_and_a_verifier_becomes_the_next_one() -> None:
    trainers = Trainers(warm=True)
    try:
        trainers.keep_spare()
        with trainers.taken() as first:
            trainers.keep_spare()
            trainers.keep_spare()  # one is enough
            with trainers.taken(give_back=True) as second:
                assert second.pid != first.pid
        assert has_ended(first.pid)
        assert trainers.take() is second
        second.close()
    finally:
        trainers.close()


def test_a_dead_spare_is_replaced_by_a_cold_trainer() -> None:
    trainers = Trainers(warm=True)
    trainers.keep_spare()
    spare = trainers.take()
    trainers.give_back(spare)
    os.kill(spare.pid, signal.SIGKILL)
    wait_until(lambda: not spare.is_alive())
    with trainers.taken() as other:
        assert other.pid != spare.pid
    trainers.close()


def test_without_warm_trainers_none_is_kept() -> None:
    trainers = Trainers(warm=False)
    trainers.keep_spare()
    with trainers.taken(give_back=True) as trainer:
        assert trainer.is_alive()
    assert has_ended(trainer.pid)
    trainers.close()

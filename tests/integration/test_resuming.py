"""A full run killed at any step goes on where it was, and ends in the very same weights."""

import json
import os
import random
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from backtalk.errors import TrainerFailed, TrainingDiverged
from backtalk.learn.backbones import prepare_backbone
from backtalk.learn.checkpoints import Checkpoint, Checkpoints
from backtalk.trainers import Trainer
from tests.lessons import School

KILLS = 10
#: So long that ten kills at the first to third step of an attempt never reach the end; checkpoints at some
#: steps, so that an attempt also goes on from one that lies behind.
KILLED = {"epochs": 10, "checkpoint_s": 0.05}
VALIDATION = 18  # so few that the last weights count, which have gone through every kill

#: Forks an attempt for each line `<lesson> <step to die at>`, so that TensorFlow is imported once. Nothing of
#: it has run before a fork.
ATTENDER = """
import os, sys
from pathlib import Path
import keras
from backtalk.learn import finetune
from tests.lessons import attend

for line in sys.stdin:
    lesson, kill_at = line.split()
    child = os.fork()
    if child == 0:
        attend(Path(lesson), int(kill_at) or None)
        os._exit(0)
    print(os.waitpid(child, 0)[1], flush=True)
"""


@pytest.fixture(scope="module")
def school(tmp_path_factory: pytest.TempPathFactory, tiny_folder: Path) -> School:
    return School.set_up(tmp_path_factory.mktemp("school"), tiny_folder)


class Attender:
    def __init__(self) -> None:
        environment = os.environ | {"CUDA_VISIBLE_DEVICES": "-1", "TF_CPP_MIN_LOG_LEVEL": "2"}
        command = [sys.executable, "-c", ATTENDER]
        self._process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment
        )

    def attend(self, lesson: Path, kill_at: int = 0) -> int:
        """The signal that ended the attempt; 0 where it came to its end."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(f"{lesson} {kill_at}\n")
        self._process.stdin.flush()
        return int(self._process.stdout.readline())

    def close(self) -> None:
        self._process.kill()
        self._process.wait()


def test_killed_at_ten_random_steps_it_ends_in_the_same_bits(school: School) -> None:
    kill_ten_times(school, KILLED)


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_so_does_one_with_norms_and_depthwise_convolutions(tmp_path: Path) -> None:
    made = prepare_backbone("efficientnet-lite0", tmp_path / "made", 64, "random")
    school = School.set_up(tmp_path, tmp_path / "made" / "_backbones" / made.digest)
    kill_ten_times(school, KILLED | {"learning_rate": 0.001, "label_smoothing": 0.1})


def kill_ten_times(school: School, recipe: dict[str, Any]) -> None:
    """Ten attempts that die, and one that ends: in the bits of a training that nobody killed."""
    seed = random.randrange(10**6)
    values = {
        "recipe": recipe,
        "threads": 2,
        "validation_y": school.labels[60 : 60 + VALIDATION],
        "stay": np.eye(2, dtype=np.float32)[school.labels[60 + VALIDATION :]] * 0.8 + 0.1,
    }
    attender = Attender()
    try:
        plain = school.write_lesson("plain", **values)
        assert attender.attend(plain) == 0
        for fence, step in enumerate(random.Random(seed).choices(range(1, 4), k=KILLS), 1):
            lesson = school.write_lesson("killed", fence=fence, **values)
            assert attender.attend(lesson, step) == signal.SIGKILL, f"seed {seed}, attempt {fence}"
        lesson = school.write_lesson("killed", fence=KILLS + 1, **values)
        assert attender.attend(lesson) == 0, f"seed {seed}"
    finally:
        attender.close()
    first, other = (json.loads((folder / "result.json").read_text()) for folder in (plain, lesson))
    assert first["tuning"]["best_epoch"] is None  # the last weights count
    assert first["tuning"]["steps"] == other["tuning"]["steps"] == 40
    one, two = (school.weights(result["backbone"]["digest"]) for result in (first, other))
    assert all(np.array_equal(one[name], two[name]) for name in one), f"seed {seed}"
    assert first["backbone"]["digest"] == other["backbone"]["digest"], f"seed {seed}"
    before = school.weights(school.backbone)
    assert any(not np.array_equal(one[name], before[name]) for name in one)


def test_what_another_teacher_taught_is_no_beginning(school: School) -> None:
    attender = Attender()
    right = np.eye(2, dtype=np.float32)[school.labels[:60]]
    try:
        first = school.write_lesson("taught", train_soft=right * 0.8 + 0.1)
        other = school.write_lesson("taught", fence=2, train_soft=right * 0.4 + 0.3)
        alone = school.write_lesson("alone", train_soft=right * 0.4 + 0.3)
        for lesson in (first, other, alone):
            assert attender.attend(lesson) == 0
    finally:
        attender.close()
    of_first, of_other, of_alone = (
        json.loads((lesson / "result.json").read_text())["backbone"]["digest"]
        for lesson in (first, other, alone)
    )
    assert of_other == of_alone != of_first


def test_sigterm_ends_it_after_a_step_with_a_checkpoint_and_status_75(school: School) -> None:
    lesson = school.write_lesson("asked", recipe={"epochs": 400, "checkpoint_s": 1000})
    trainer = Trainer.start_tuner()

    told: list[dict] = []
    asked: list[int] = []

    def ask(progress: dict) -> None:
        told.append(progress)
        if "accuracy" in progress and not asked:  # of the validation images, once an epoch is over
            os.kill(trainer.pid, signal.SIGTERM)  # once: a second one ends it at once
            asked.append(trainer.pid)

    with pytest.raises(TrainerFailed) as caught:
        trainer.call({"do": "tune", "lesson": str(lesson)}, ask)
    assert caught.value.extra["status"] == 75
    newest = next(progress for progress in reversed(told) if "accuracy" in progress)
    assert {"epoch", "epochs", "step", "steps", "loss", "time_left_s"} < newest.keys()
    assert 0 <= newest["accuracy"] <= 1
    assert newest["history"][-1]["accuracy"] == newest["accuracy"]
    assert [epoch["epoch"] for epoch in newest["history"]] == list(range(1, newest["epoch"]))
    kept = sorted((school.root / "work" / "asked" / "checkpoints").glob("0*-1"))
    assert int(kept[-1].name.split("-")[0]) >= newest["step"]


def test_a_loss_that_is_no_number_ends_it_and_names_the_step(school: School) -> None:
    trainer = Trainer.start_tuner()
    try:
        stay = np.full((16, 2), np.nan, np.float32)
        lesson = school.write_lesson("nan", stay=stay, recipe={"replay": 1.0})
        with pytest.raises(TrainingDiverged, match=r"at step \d+"):
            trainer.call({"do": "tune", "lesson": str(lesson)})
    finally:
        trainer.close()


# --- checkpoints -------------------------------------------------------------------------------
def save(folder: Path, step: int, fence: int = 1, seed: int = 7) -> None:
    arrays = {"learned/0000": np.full(5, step, np.float32)}
    Checkpoints(folder, fence, {"seed": seed}).save(Checkpoint(step, arrays, {"epoch": 0}))


def newest(folder: Path, seed: int = 7) -> int | None:
    found = Checkpoints(folder, 9, {"seed": seed}).find_newest()
    return found.step if found else None


def test_the_newest_that_verifies_wins_and_two_are_kept(tmp_path: Path) -> None:
    for step in (1, 2, 3):
        save(tmp_path, step, fence=step)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["000000002-2", "000000003-3"]
    assert newest(tmp_path) == 3
    damaged = tmp_path / "000000003-3" / "state.npz"
    damaged.write_bytes(damaged.read_bytes()[:-1])
    assert newest(tmp_path) == 2


@pytest.mark.parametrize("of", ["another training", "nobody, since they are torn"])
def test_what_cannot_be_taken_up_never_crowds_out_what_is_saved_after_it(tmp_path: Path, of: str) -> None:
    for step in (100, 101):
        save(tmp_path, step, seed=8 if of == "another training" else 7)
        if of != "another training":
            (tmp_path / f"{step:09d}-1" / "state.npz").write_bytes(b"")
    assert newest(tmp_path) is None  # as an attempt looks before it begins anew
    for step in (1, 2, 3):
        save(tmp_path, step)
    assert newest(tmp_path) == 3


@pytest.mark.parametrize("name", ["state.npz", "state.json", "SHA256SUMS"])
@pytest.mark.parametrize("damage", [lambda d: b"", lambda d: d[:-3], lambda d: bytes([d[0] ^ 1]) + d[1:]])
def test_a_torn_checkpoint_does_not_count(tmp_path: Path, name: str, damage) -> None:
    save(tmp_path, 1)
    save(tmp_path, 2)
    path = tmp_path / "000000002-1" / name
    path.write_bytes(damage(path.read_bytes()))
    assert newest(tmp_path) == 1

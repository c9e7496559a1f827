"""TensorBoard logs of real trainers, read by TensorBoard's own reader."""

import os
import re
import signal
import subprocess
import sys
import urllib.request
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from backtalk import boards, bootstrap
from backtalk.config import Settings
from backtalk.errors import TrainerFailed
from backtalk.learn.boards import draw_confusion
from backtalk.servers import free_port
from backtalk.trainers import Trainer
from tests.fits import Bench
from tests.lessons import School


def read(folder: Path) -> Any:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(folder), size_guidance={"tensors": 0})
    events.Reload()
    return events


def test_a_head_run_leaves_accuracies_a_confusion_matrix_and_a_projector(
    tmp_path: Path, tiny_folder: Path
) -> None:
    bench = Bench.set_up(tmp_path / "store", tiny_folder)
    job = bench.write_job("job", board=tmp_path / "board")
    blocked = bench.write_job("blocked", board=tmp_path / "file" / "board")
    (tmp_path / "file").write_text("no folder can be made in here")
    trainer = Trainer.start()
    try:
        fitted = trainer.call({"do": "fit", "job": str(job)})
        assert trainer.call({"do": "fit", "job": str(blocked)})["validation"] == fitted["validation"]
    finally:
        trainer.close()
    tags = set(read(tmp_path / "board").Tags()["tensors"])
    assert tags >= {"head/accuracy", "head/log_loss", "head/chosen_alpha", "head", "confusion"}
    projected = (tmp_path / "board" / "embeddings.tsv").read_text().splitlines()
    assert len(projected) == len((tmp_path / "board" / "labels.tsv").read_text().splitlines()) == 200
    assert len(projected[0].split("\t")) == bench.backbone.width
    assert "embeddings.tsv" in (tmp_path / "board" / "projector_config.pbtxt").read_text()


def attend(lesson: Path, stop_at: int | None = None) -> None:
    """One attempt, stopped as a worker stops it."""
    trainer = Trainer.start_tuner()

    def watch(told: dict[str, Any]) -> None:
        if stop_at is not None and told.get("step", 0) >= stop_at:
            os.kill(trainer.pid, signal.SIGTERM)

    try:
        trainer.call({"do": "tune", "lesson": str(lesson)}, watch)
    finally:
        trainer.close()


@pytest.mark.slow
def test_a_full_run_leaves_a_curve_that_goes_on_after_a_stop(tmp_path: Path, tiny_folder: Path) -> None:
    school = School.set_up(tmp_path / "school", tiny_folder)
    board = tmp_path / "board"
    with pytest.raises(TrainerFailed):
        attend(school.write_lesson("run", fence=1, board=str(board)), stop_at=4)
    attend(school.write_lesson("run", fence=2, board=str(board)))
    losses = read(board).Tensors("tune/loss")
    seen = [event.step for event in losses]
    assert seen == sorted(seen)
    assert set(seen) == set(range(1, max(seen) + 1))
    assert len(read(board).Tensors("validation/accuracy")) == 3
    assert read(board).Tensors("tune/learning_rate")


def test_the_picture_of_a_confusion_matrix_is_darkest_where_most_fell() -> None:
    picture = draw_confusion(("cat", "dog"), np.array([[90, 10], [0, 5]]))
    cells = picture[115:160:28, 130:180:28].astype(int).sum(axis=2)
    assert cells[0, 0] < cells[0, 1]
    assert cells[1, 1] < cells[1, 0]
    assert draw_confusion([f"label {i}" for i in range(100)], np.eye(100, dtype=np.int64)).shape[0] < 700


def test_the_logs_of_the_newest_runs_are_kept(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    system = bootstrap.build(settings)
    monkeypatch.setattr(boards, "KEPT", 2)
    for number in range(4):
        (settings.boards_path / "animals" / f"2026010{number}-000000-head-aaaaaa").mkdir(parents=True)
    boards.prune_boards(system)
    left = sorted(path.name[:8] for path in (settings.boards_path / "animals").iterdir())
    assert left == ["20260102", "20260103"]
    system.close()


def test_a_link_leads_to_where_people_reach_the_pages_unless_they_are_switched_off(
    settings: Settings,
) -> None:
    def link(**changes: Any) -> str | None:
        system = bootstrap.build(settings.model_copy(update=changes))
        try:
            return boards.link_board(system, "m/20260101-000000-head-aaaaaa")
        finally:
            system.close()

    found = link(tensorboard_url="https://boards.example/tb/")
    assert found == "https://boards.example/tb/?runFilter=m%2F20260101-000000-head-aaaaaa#timeseries"
    assert link(tensorboard=False) is None


@pytest.mark.slow
def test_the_command_serves_the_logs(tmp_path: Path, tiny_folder: Path) -> None:
    bench = Bench.set_up(tmp_path / "store", tiny_folder)
    name = "m/20260101-000000-head-aaaaaa"
    job = bench.write_job("job", board=tmp_path / "home" / "tensorboard" / name)
    trainer = Trainer.start()
    trainer.call({"do": "fit", "job": str(job)})
    trainer.close()
    port = free_port()
    command = [sys.executable, "-m", "backtalk.cli", "tensorboard", "--home", str(tmp_path / "home")]
    board = subprocess.Popen([*command, "--port", str(port)], stderr=subprocess.PIPE, text=True)
    try:
        assert board.stderr is not None
        assert any(re.search(r"TensorBoard .* at http", line) for line in board.stderr)
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/data/runs", timeout=30) as answer:
            assert name.encode() in answer.read()
    finally:
        board.kill()
        board.wait()

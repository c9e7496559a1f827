"""When a full run stops, which of its weights count, and what ends it: all in a trainer, as in life."""

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from backtalk.errors import OutOfRoom
from backtalk.learn.checkpoints import Arrays, Checkpoint, Checkpoints
from backtalk.trainers import Trainer
from tests.lessons import School

EPOCHS, TRAIN = 4, 60
ENOUGH = 20  # validation images
RECIPE = {"epochs": EPOCHS, "learning_rate": 0.003, "mixup": 0.0}


@pytest.fixture(scope="module")
def school(tmp_path_factory: pytest.TempPathFactory, tiny_folder: Path) -> School:
    return School.set_up(tmp_path_factory.mktemp("school"), tiny_folder)


@pytest.fixture(scope="module")
def trainer() -> Iterator[Trainer]:
    trainer = Trainer.start_tuner()
    yield trainer
    trainer.close()


def tune(
    school: School,
    trainer: Trainer,
    name: str,
    validation: int = ENOUGH,
    fence: int = 1,
    **recipe: Any,
) -> dict[str, Any]:
    """A run whose validation images all bear the wrong label: the more it learns, the worse they do."""
    held = school.labels[TRAIN : TRAIN + validation]
    stay = np.eye(2, dtype=np.float32)[school.labels[TRAIN + validation :]]
    values = {"validation_y": 1 - held, "stay": stay, "recipe": RECIPE | recipe}
    lesson = school.write_lesson(name, fence=fence, **values)
    return trainer.call({"do": "tune", "lesson": str(lesson)})


def list_checkpoints(school: School, name: str) -> Checkpoints:
    """As an attempt of the same run sees them."""
    folder = school.root / "work" / name / "checkpoints"
    stored = json.loads((max(folder.glob("0*")) / "state.json").read_text())
    return Checkpoints(folder, 9, stored["identity"])


def read_newest(school: School, name: str) -> Checkpoint:
    """Its `learned/…` is where the run stood, `best/…` what it would go back to."""
    found = list_checkpoints(school, name).find_newest()
    assert found is not None
    return found


def list_published(school: School, result: dict[str, Any]) -> list[np.ndarray]:
    """By place, which is the order in which the tiny net learns them."""
    return [array for _, array in sorted(school.weights(result["backbone"]["digest"]).items())]


def are_same(published: list[np.ndarray], arrays: Arrays, prefix: str) -> bool:
    return all(np.array_equal(array, arrays[f"{prefix}learned/{i:04d}"]) for i, array in enumerate(published))


@pytest.fixture(scope="module")
def runs(school: School, trainer: Trainer) -> dict[int, dict[str, Any]]:
    """By patience, all else alike."""
    return {patience: tune(school, trainer, f"p{patience}", patience=patience) for patience in (0, 1, 2)}


@pytest.mark.parametrize(("patience", "epochs"), [(0, EPOCHS), (1, 2), (2, 3)])
def test_it_stops_after_so_many_epochs_without_progress_and_the_best_weights_count(
    school: School, runs: dict[int, dict[str, Any]], patience: int, epochs: int
) -> None:
    told = runs[patience]["tuning"]
    losses = [epoch["log_loss"] for epoch in told["history"]]
    assert losses[0] == min(losses)
    assert [epoch["epoch"] for epoch in told["history"]] == list(range(1, epochs + 1))
    assert (told["epochs"], told["best_epoch"], told["validation"]) == (epochs, 1, ENOUGH)
    last, published = read_newest(school, f"p{patience}").arrays, list_published(school, runs[patience])
    assert are_same(published, last, "best/")
    assert not are_same(published, last, "")


def test_however_long_it_went_on_it_goes_back_to_the_same_epoch(runs: dict[int, dict[str, Any]]) -> None:
    assert len({made["backbone"]["digest"] for made in runs.values()}) == 1


def test_an_epoch_that_is_better_than_all_before_gives_it_new_patience(
    school: School, trainer: Trainer, runs: dict[int, dict[str, Any]]
) -> None:
    work = school.root / "work"
    shutil.copytree(work / "p2", work / "patient")
    ended = read_newest(school, "patient")
    assert (ended.state["epoch"], ended.state["bad_epochs"], ended.state["best_epoch"]) == (3, 2, 1)
    # As if it had been worse before, and only one epoch had brought nothing.
    state = ended.state | {"best_loss": 100.0, "bad_epochs": 1}
    list_checkpoints(school, "patient").save(Checkpoint(ended.step, ended.arrays, state))
    made = tune(school, trainer, "patient", patience=2, fence=10)
    assert made["tuning"]["history"][:3] == runs[2]["tuning"]["history"]
    assert (made["tuning"]["epochs"], made["tuning"]["best_epoch"]) == (4, 4)
    newest = read_newest(school, "patient")
    assert newest.state["bad_epochs"] == 0
    assert are_same(list_published(school, made), newest.arrays, "")


def test_with_too_few_validation_images_nothing_stops_early_and_the_last_weights_count(
    school: School, trainer: Trainer
) -> None:
    made = tune(school, trainer, "few", ENOUGH - 1, patience=1)
    told, last = made["tuning"], read_newest(school, "few").arrays
    assert (told["epochs"], told["best_epoch"]) == (EPOCHS, None)
    assert told["history"] == [{"epoch": epoch} for epoch in range(1, EPOCHS + 1)]
    assert are_same(list_published(school, made), last, "")
    assert not any(key.startswith("best/") for key in last)


def test_more_memory_than_its_recipe_allows_ends_it_and_says_what_to_do(
    school: School, trainer: Trainer
) -> None:
    work = school.root / "work" / "large"
    (work / "checkpoints" / ".new-0123").mkdir(parents=True)
    (work / ".new-4567").write_bytes(b"half of a map")
    said = r"^The run uses \d+ MB of memory, and its recipe allows 256\. Lower `batch_size`, or raise `mem"
    with pytest.raises(OutOfRoom, match=said):
        tune(school, trainer, "large", memory_mb=256)
    assert list(work.rglob(".new-*")) == []  # what an attempt before it left aside is gone

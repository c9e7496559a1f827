"""What the demo claims of itself: nothing measured is learned from, and figures are counted as it says."""

import pytest
from rich.console import Console

from demo import full
from demo.book import Book, Entry
from demo.cells import Cell, draw_parts, find_data, load_cells, write_folder
from demo.client import Json
from demo.measurer import Measurement
from demo.report import Report
from demo.reviewer import choose_answer


@pytest.fixture(scope="module")
def cells() -> list[Cell]:
    pytest.importorskip("elpv_dataset")
    return load_cells(find_data())


def test_no_cell_is_in_two_parts_and_the_model_is_made_from_mono_cells_alone(cells: list[Cell]) -> None:
    parts = draw_parts(cells, seed=7)
    names = [cell.name for part in (parts.base, parts.traffic, parts.untouched) for cell in part]
    assert len(names) == len(set(names)) == 700 + 1250 + 650
    assert {cell.module for cell in parts.base} == {"mono"}


def test_the_same_seed_draws_the_same_parts_and_another_one_does_not(cells: list[Cell]) -> None:
    assert draw_parts(cells, seed=7) == draw_parts(cells, seed=7)
    assert draw_parts(cells, seed=7).traffic != draw_parts(cells, seed=8).traffic


def test_a_cell_is_defective_from_a_probability_of_one_half(cells: list[Cell]) -> None:
    by_label = {label: sum(cell.label == label for cell in cells) for label in ("defective", "functional")}
    assert by_label == {"defective": 715 + 106, "functional": 1508 + 295}


def test_the_folder_holds_one_folder_per_label(cells: list[Cell], tmp_path) -> None:  # type: ignore[no-untyped-def]
    write_folder(cells[:10], tmp_path)
    assert {path.name for path in tmp_path.iterdir()} == {cell.label for cell in cells[:10]}
    assert sum(1 for _ in tmp_path.rglob("*.png")) == 10


def test_fixed_and_broken_are_counted_in_pairs(cells: list[Cell]) -> None:
    right = {cell: cell.label for cell in cells[:10]}
    wrong = dict.fromkeys(cells[:10], "other")
    before = Measurement(1, right | dict.fromkeys(cells[:3], "other"))
    after = Measurement(2, right | dict.fromkeys(cells[2:4], "other"))
    assert after.changes_since(before) == (2, 1)
    assert Measurement(3, wrong).accuracy(cells[0].module) == 0.0


def test_the_reviewer_rejects_what_the_measurer_caused(cells: list[Cell]) -> None:
    book = Book()
    book.note("p", Entry(cells[0], measured=True))
    item = {"prediction": "p", "kind": "audit", "predicted": cells[0].label, "reported": None}
    assert choose_answer(item, book.find("p")) == ("reject", None)


def test_the_reviewer_relabels_a_wrong_report_and_approves_a_right_one(cells: list[Cell]) -> None:
    book = Book()
    book.note("p", Entry(cells[0], measured=False))
    item = {"prediction": "p", "kind": "correction", "predicted": "x", "reported": "y"}
    assert choose_answer(item, book.find("p")) == ("relabel", cells[0].label)
    assert choose_answer(item | {"reported": cells[0].label}, book.find("p")) == ("approve", None)


class FullRuns:
    """Answers as the API does, with one full run that takes its course."""

    def __init__(self, *states: str) -> None:
        self.asked: list[tuple[str, str | None]] = []
        self._states = list(states)

    def train(self, model: str, *, kind: str = "head", recipe: str | None = None) -> Json:
        self.asked.append((kind, recipe))
        return {"id": "r"}

    def run(self, run_id: str) -> Json:
        return {"id": run_id, "state": self._states.pop(0), "progress": {}, "reason": None, "checks": []}


def test_a_full_run_is_watched_until_its_verdict(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(full, "LOOK_S", 0.0)
    runs = FullRuns("queued", "training", "judging", "rejected")
    seen: list[str] = []
    ended = full.run_full(runs, "solar-cells", lambda run: seen.append(run["state"]))  # type: ignore[arg-type]
    assert runs.asked == [("full", "surfaces")]
    assert seen == ["queued", "training", "judging", "rejected"]
    assert ended["state"] == "rejected"


def test_the_bar_and_the_table_of_checks_take_a_run_at_any_moment() -> None:
    console = Console(record=True, width=100)
    report = Report(console)
    bar, watch = report.watching()
    tuning = {"part": "tune", "fraction": 0.5, "epoch": 1, "epochs": 2, "loss": 0.4, "time_left_s": 3.0}
    with bar:
        watch({"state": "queued", "progress": {}})
        watch({"state": "training", "progress": tuning})
        watch({"state": "judging", "progress": {}})
    check = {"check": "recall", "value": None, "bound": 0.1, "n": 20, "fixed": 3, "broken": 1, "passed": None}
    report.show_judgement({"state": "promoted", "reason": "It is better.", "checks": [check]})
    said = console.export_text()
    assert "not judged" in said
    assert "promoted" in said

"""What the accuracy benchmark claims of itself: fair splits, no image on two sides, nothing done twice."""

import json
from dataclasses import fields
from io import StringIO
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from rich.console import Console

from backtalk.heads import Head
from backtalk.images import decode, pixels_digest
from backtalk.learn.held_out import HeadData
from backtalk.recipes import load_recipe
from bench import accuracy, accuracy_arms
from bench.accuracy_arms import ARMS, School, Settings
from bench.accuracy_loop import compare_halves
from bench.accuracy_results import PUBLISHED, Results, make_table, sum_up
from bench.accuracy_rounds import BASE, ROUND, STRATEGIES, Course, World
from bench.accuracy_split import draw_split, number_labels
from demo.cells import LABELS, Cell, find_data, load_cells

QUICK = "epochs: 1\nbatch_size: 16\ncheckpoint_s: 0\n"
TAUGHT = QUICK + "method: distil\ndistil: {student: tiny, input_size: 36}\n"


@pytest.fixture(scope="module")
def cells() -> list[Cell]:
    pytest.importorskip("elpv_dataset")
    return load_cells(find_data())


def test_a_quarter_is_for_the_test_and_no_cell_is_in_two_parts(cells: list[Cell]) -> None:
    split = draw_split(cells, seed=3)
    places = np.concatenate([split.train, split.validation, split.test])
    assert sorted(places.tolist()) == list(range(2624))
    assert (len(split.test), len(split.validation)) == (655, 262)


def test_each_part_has_the_same_shares_of_labels_and_of_modules(cells: list[Cell]) -> None:
    split = draw_split(cells, seed=3)
    for value in ("defective", "functional", "mono", "poly"):
        has = np.array([value in (cell.label, cell.module) for cell in cells])
        for part in (split.train, split.validation, split.test):
            assert has[part].mean() == pytest.approx(has.mean(), abs=0.005)


def test_a_seed_draws_one_split_and_another_seed_another(cells: list[Cell]) -> None:
    first, again, other = (draw_split(cells, seed).test.tolist() for seed in (0, 0, 1))
    assert first == again
    assert first != other


def row(seed: int, arm: str, accuracy: float, settings: object = "these") -> dict[str, object]:
    return {
        "seed": seed,
        "arm": arm,
        "accuracy": accuracy,
        "of": {"mono": 0.5},
        "seconds": 2.0,
        "settings": settings,
    }


def test_a_result_is_found_again_by_its_settings_and_no_other(tmp_path: Path) -> None:
    results = Results(tmp_path)
    settings = {"threads": 1}
    results.put(row(4, "head", 0.8, settings))
    assert results.find(4, "head", settings) == row(4, "head", 0.8, settings)
    assert results.find(4, "head", {"threads": 2}) is None
    assert results.find(5, "head", settings) is None
    (tmp_path / "head-4.json").write_text("{")
    assert results.find(4, "head", settings) is None


def test_the_summary_has_mean_and_spread_beside_what_is_published() -> None:
    summary = sum_up([row(0, "full", 0.8), row(1, "full", 0.9), row(0, "head", 0.7)])
    assert list(summary) == ["head", "full"]
    assert summary["full"]["mean"] == pytest.approx(0.85)
    assert summary["full"]["std"] == pytest.approx(0.0707, abs=1e-4)
    assert summary["head"]["std"] is None
    assert make_table(summary).row_count == len(PUBLISHED) + 2


def test_results_depend_on_the_recipes_that_made_them_and_on_no_other() -> None:
    recipes = {name: load_recipe(name, None) for name in ("surfaces", "int8", "faster-surfaces")}
    by_arm = dict(zip(ARMS[1:], recipes.values(), strict=True))
    one = Settings("efficientnet-lite0", 300, None, by_arm, 2)
    other = Settings("efficientnet-lite0", 300, None, by_arm | {"student": recipes["surfaces"]}, 2)
    differs = [arm for arm in ARMS if one.describe(arm) != other.describe(arm)]
    assert differs == ["student"]


def make_cells(folder: Path, count: int) -> list[Cell]:
    """Each is a picture of its own, of one colour."""
    cells = []
    for n in range(count):
        path = folder / f"{n}.png"
        Image.new("RGB", (8, 8), (n % 256, n // 256, 99)).save(path)
        cells.append(Cell(path, ("mono", "poly")[n % 2], LABELS[n % 3 == 0]))
    return cells


@pytest.fixture
def school(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> School:
    """Of 240 cells; what a backbone makes of each is its place in the list, and nothing is trained."""
    cells = make_cells(tmp_path, 240)
    places = np.arange(len(cells), dtype=np.float16)[:, None]
    monkeypatch.setattr(accuracy_arms, "prepare", lambda *_: "b" * 64)
    monkeypatch.setattr(accuracy_arms, "embed_cells", lambda *_: places)
    recipes = {arm: load_recipe(name, None) for arm, name in TABLE.items()}
    settings = Settings("efficientnet-lite0", 260, None, recipes, 1)
    made = School(cells, tmp_path / "work", 0, settings, lambda *_, **__: None)
    teacher = Head(np.ones((2, 1), np.float32), np.zeros(2, np.float32), 1.0, LABELS, "b" * 64)
    made._keep("full", teacher)
    return made


TABLE = {"full": "surfaces", "int8": "int8", "student": "faster-surfaces"}


@pytest.mark.parametrize("arm", TABLE)
def test_no_lesson_shows_a_cell_of_the_test(school: School, arm: str) -> None:
    folder = school._write_lesson(arm)
    shown = {key[3:67] for key, _ in json.loads((folder / "lesson.json").read_text())["sources"]}
    asked = {pixels_digest(decode(school._cells[place].read()).pixels) for place in school._split.test}
    assert len(asked) == 60
    assert shown.isdisjoint(asked)
    with np.load(folder / "targets.npz") as targets:
        assert len(targets["train_y"]) + len(targets["validation_y"]) == len(shown) > 0


def test_no_head_is_fitted_to_a_cell_of_the_test_or_chosen_by_one(
    school: School, monkeypatch: pytest.MonkeyPatch
) -> None:
    given: list[HeadData] = []

    def stop(data: HeadData, *_: Any) -> None:
        given.append(data)
        raise InterruptedError

    monkeypatch.setattr(accuracy_arms, "fit_head", stop)
    with pytest.raises(InterruptedError):
        school._fit("b" * 64)
    arrays = [getattr(given[0], field.name) for field in fields(HeadData) if field.name.endswith("_x")]
    shown = {int(place) for array in arrays for place in array[:, 0]}
    assert shown == {*school._split.train.tolist(), *school._split.validation.tolist()}
    assert shown.isdisjoint(school._split.test.tolist())


def test_what_is_measured_by_default_is_what_the_table_shows() -> None:
    given = accuracy._parse([])
    assert (given.seeds, given.input_size, given.backbone) == ([0, 1, 2, 3, 4], 260, "efficientnet-lite0")
    assert {arm: getattr(given, arm) for arm in TABLE} == TABLE


def test_without_a_terminal_a_line_tells_of_each_part_and_about_every_tenth_of_it() -> None:
    out = StringIO()
    show = accuracy.line_writer(Console(file=out), "seed 0, full")
    show({"part": "decode", "fraction": 0.0, "loss": None})
    for step in range(100):
        show({"part": "tune", "fraction": step / 99, "loss": 0.5})
    lines = out.getvalue().splitlines()
    assert lines[:3] == [
        "seed 0, full: decode 0 %",
        "seed 0, full: tune 0 %, loss 0.500",
        "seed 0, full: tune 10 %, loss 0.500",
    ]
    assert len(lines) == 12


def make_world(seed: int = 5) -> World:
    """Two clouds that overlap, as embeddings of 700 cells."""
    generator = np.random.default_rng(seed)
    cells = [Cell(Path(f"{n}.png"), "mono", "defective" if n % 3 == 0 else "functional") for n in range(700)]
    labels = number_labels(cells)
    embeddings = generator.normal(labels[:, None] * 0.6, 1.0, (700, 8)).astype(np.float16)
    return World(embeddings, labels, draw_split(cells, seed), seed)


@pytest.mark.parametrize("strategy", STRATEGIES, ids=lambda s: s.name)
def test_a_course_learns_from_training_cells_alone_and_pays_for_each_once(strategy) -> None:  # type: ignore[no-untyped-def]
    world = make_world()
    course = Course(world, strategy)
    points = course.play()
    assert points[0][0] == 0
    assert [spent for spent, _ in points] == [ROUND * n for n in range(len(points))]
    assert len(course.learned) == len(set(course.learned)) == BASE + points[-1][0]
    assert set(course.learned) <= set(world.split.train.tolist())
    assert set(course.learned).isdisjoint(course.silent)


def test_half_the_labels_are_compared_with_twice_as_many_random_ones_in_pairs() -> None:
    ours = [[[0, 0.5], [50, 0.7]], [[0, 0.5], [50, 0.8]]]
    random = [[[0, 0.5], [50, 0.6], [100, 0.65]], [[0, 0.5], [50, 0.6], [100, 0.75]]]
    assert compare_halves(ours, random) == [
        {"labels": 50, "gain": pytest.approx(0.05), "error": pytest.approx(0)}
    ]


@pytest.fixture
def words(tmp_path: Path) -> list[str]:
    """What asks for all arms of one seed, as small as can be."""
    pytest.importorskip("elpv_dataset")
    recipes = tmp_path / "recipes"
    recipes.mkdir()
    (recipes / "quick.yaml").write_text(QUICK)
    (recipes / "slower.yaml").write_text(QUICK + "learning_rate: 0.003\n")
    (recipes / "taught.yaml").write_text(TAUGHT)
    (recipes / "small.yaml").write_text("method: quantise\nquantise: {images: 10}\n")
    words = ["--seeds", "0", "--cells", "160", "--backbone", "tiny", "--input-size", "32", "--threads", "1"]
    words += ["--full", "quick", "--student", "taught", "--int8", "small", "--recipes", str(recipes)]
    return [*words, "--work", str(tmp_path / "work"), "--out", str(tmp_path / "accuracy.json")]


@pytest.mark.slow
def test_every_arm_is_measured_once_and_a_rerun_has_nothing_to_do(words: list[str], tmp_path: Path) -> None:
    assert accuracy.main(words) == 0
    first = json.loads((tmp_path / "accuracy.json").read_text())
    assert [row["arm"] for row in first["rows"]] == list(ARMS)
    assert all(0 <= row["accuracy"] <= 1 for row in first["rows"])
    assert len({row["backbone_digest"] for row in first["rows"]}) == len(ARMS)
    written = {path: path.stat().st_mtime_ns for path in (tmp_path / "work" / "results").iterdir()}
    (tmp_path / "work" / "results" / "int8-0.json").unlink()
    assert accuracy.main(words) == 0
    again = {path: path.stat().st_mtime_ns for path in (tmp_path / "work" / "results").iterdir()}
    assert [path.name for path in written if written[path] != again[path]] == ["int8-0.json"]


@pytest.mark.slow
def test_another_teacher_s_student_is_trained_anew(words: list[str], tmp_path: Path) -> None:
    """Its recipe is the same, and the checkpoint of the first one is still there."""

    def measure(full: str) -> list[str]:
        assert accuracy.main([*words, "--arms", "full", "student", "--full", full]) == 0
        rows = json.loads((tmp_path / "accuracy.json").read_text())["rows"]
        return [row["backbone_digest"] for row in rows]

    teacher, student = measure("quick")
    other_teacher, other_student = measure("slower")
    assert teacher != other_teacher
    assert student != other_student

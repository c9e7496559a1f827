"""What a head run chooses, and what it must never look at."""

import subprocess
import sys

import numpy as np
import pytest
from numpy.typing import NDArray

from backtalk.errors import SnapshotUnusable
from backtalk.heads import Head
from backtalk.learn.head import Fitted, _Choice, _within_one_error, fit_head, weigh_labels
from backtalk.learn.held_out import ENOUGH_VALIDATION, Folds, HeadData, HeldOut
from backtalk.learn.logistic import Problem, Scaler, find_temperature, log_losses

LABELS = ("cat", "dog", "owl")
WIDTH = 24
CENTRES = np.random.default_rng(99).normal(0, 1, (len(LABELS), WIDTH))


def draw(count: int, seed: int, noise: float = 1.2) -> tuple[NDArray[np.float16], NDArray[np.int32]]:
    """Three overlapping clouds, far from zero, as embeddings are."""
    random = np.random.default_rng(seed)
    y = random.integers(0, len(LABELS), count).astype(np.int32)
    return (3 + CENTRES[y] + random.normal(0, noise, (count, WIDTH))).astype(np.float16), y


def make_data(
    train: int = 300, validation: int = 60, stay: int = 0, seed: int = 0, **changes: object
) -> HeadData:
    train_x, train_y = draw(train, seed)
    validation_x, validation_y = draw(validation, seed + 1)
    values = {
        "train_x": train_x,
        "train_y": train_y,
        "validation_x": validation_x,
        "validation_y": validation_y,
        "stay_x": draw(stay, seed + 2)[0],
        "train_seen": np.zeros(train, np.bool_),
        "train_weight": np.ones(train, np.float32),
    }
    return HeadData(**(values | changes))


def fit(data: HeadData, champion: Head | None = None, seed: int = 0) -> Fitted:
    return fit_head(data, LABELS, "b" * 64, champion, seed)


def accuracy(head: Head, seed: int = 50) -> float:
    x, y = draw(2000, seed)
    return float((head.scores(x).argmax(axis=1) == y).mean())


def bits(fitted: Fitted) -> tuple[bytes, bytes, float]:
    return fitted.head.weights.tobytes(), fitted.head.bias.tobytes(), fitted.head.temperature


@pytest.mark.parametrize("validation", [60, ENOUGH_VALIDATION])
def test_a_head_learns_what_there_is_to_learn(validation: int) -> None:
    x, y = draw(2000, 50)
    best = float((((x[:, None] - 3 - CENTRES) ** 2).sum(axis=2).argmin(axis=1) == y).mean())
    fitted = fit(make_data(600, validation))
    assert accuracy(fitted.head) > best - 0.03
    assert fitted.counts["folds"] == (0 if validation >= ENOUGH_VALIDATION else 5)
    assert fitted.validation["champion_accuracy"] is None


def test_the_same_data_and_seed_give_the_same_bits_in_another_process() -> None:
    champion = fit(make_data(100)).head
    data = make_data(stay=50)
    assert bits(fit(data, champion)) == bits(fit(data, champion))
    code = (
        "import hashlib; from tests.unit.test_head_choice import *;"
        "f = fit(make_data(stay=50), fit(make_data(100)).head);"
        "print(hashlib.sha256(b''.join(bits(f)[:2])).hexdigest(), f.head.temperature)"
    )
    answers = {
        subprocess.run([sys.executable, "-c", code], check=True, capture_output=True).stdout for _ in range(2)
    }
    assert len(answers) == 1


def test_standardisation_is_folded_into_the_head() -> None:
    random = np.random.default_rng(3)
    x = random.normal(5, 2, (40, WIDTH)).astype(np.float16)
    scaler = Scaler.measure(x)
    parameters = random.normal(size=(WIDTH + 1, 3))
    weights, bias = scaler.fold(parameters)
    expected = scaler.apply(x) @ parameters[:-1] + parameters[-1]
    assert np.abs(x.astype(np.float64) @ weights.T + bias - expected).max() < 1e-4


def test_a_dimension_that_never_moves_is_not_blown_up() -> None:
    x = np.random.default_rng(0).normal(1, 0.5, (50, 3)).astype(np.float16)
    x[:, 1] = 2.0
    scaled = Scaler.measure(x).apply(np.full((1, 3), 2.1, np.float16))
    assert np.isfinite(scaled).all()
    assert abs(scaled[0, 1]) < 2


def test_rare_labels_weigh_more_but_never_more_than_five_times() -> None:
    weights = weigh_labels(np.array([0] * 400 + [1] * 100 + [2] * 4, np.int32))
    assert weights[0] == 1
    assert weights[450] == 2
    assert weights[-1] == 5


def test_a_champion_of_another_backbone_or_other_labels_is_not_heeded() -> None:
    data = make_data(stay=80)
    alone = bits(fit(data))
    champion = fit(make_data(100)).head
    for changes in ({"backbone_digest": "c" * 64}, {"labels": ("cat", "dog", "emu")}):
        fitted = fit(data, Head(**(vars(champion) | changes)))
        assert bits(fitted) == alone
        assert (fitted.chosen.strength, fitted.chosen.alpha) == (0.0, 1.0)


@pytest.mark.parametrize(("train", "stay"), [(300, 50), (300, 2000)])
def test_the_stay_right_term_never_outweighs_the_labelled_images(train: int, stay: int) -> None:
    champion = fit(make_data(100)).head
    data = make_data(train, stay=stay)
    choice = _Choice(data, len(LABELS), champion, Folds.deal(data, 0), lambda _fraction: None)
    for number, problem in enumerate(choice._problems):
        labelled = int((choice.folds.train != number).sum())
        assert problem.weights[:labelled].sum() == pytest.approx(1, abs=1e-5)
        assert problem.weights[labelled:].sum() <= 1 + 1e-5
        assert problem.weights[labelled:].max() <= 1 / labelled + 1e-7
        assert len(problem.weaken(stay, 0.0).weights) == labelled
        assert problem.weaken(stay, 0.25).weights[-1] == pytest.approx(problem.weights[-1] / 4)


def test_validation_images_are_never_fitted_to() -> None:
    data = make_data(stay=40)
    champion = fit(make_data(100)).head
    choice = _Choice(data, len(LABELS), champion, Folds.deal(data, 0), lambda _fraction: None)
    allowed = {row.tobytes() for row in choice.scaler.apply(np.concatenate([data.train_x, data.stay_x]))}
    for problem in [*choice._problems, choice._pose(np.ones(300, np.bool_))]:
        assert {row.tobytes() for row in problem.features} <= allowed


def test_no_fit_scores_an_image_that_it_was_fitted_to() -> None:
    data = make_data()
    folds = Folds.deal(data, 0)
    held_out = HeldOut.gather(data, folds, Scaler.measure(data.train_x), None)
    assert len(held_out.labels) == 360
    marks = [np.full((WIDTH + 1, 3), float(number)) for number in range(folds.count)]
    scored = held_out.score(marks)
    own = held_out.features.sum(axis=1) + 1
    assert np.allclose(scored[:, 0], own * held_out.fold, atol=1e-2)
    assert np.array_equal(held_out.fold[60:], folds.train)
    for label in range(3):
        per_fold = np.bincount(folds.train[data.train_y == label], minlength=5)
        assert per_fold.max() - per_fold.min() <= 1


def test_a_good_champion_that_meets_misleading_labels_is_kept_near() -> None:
    champion = fit(make_data(3000, 0)).head
    noise = np.random.default_rng(5).integers(0, 3, 40).astype(np.int32)
    data = make_data(40, 250, stay=500, seed=7, train_y=noise)
    fitted = fit(data, champion)
    assert fitted.chosen.alpha == 0.25
    assert fitted.chosen.strength == 1.0
    assert accuracy(fitted.head) > accuracy(fit(data).head)


def test_nothing_is_interpolated_where_the_champion_has_seen_every_image() -> None:
    champion = fit(make_data(300, 0)).head
    data = make_data(300, 0, train_seen=np.ones(300, np.bool_))
    assert fit(data, champion).chosen.alpha == 1.0


def test_of_strengths_within_one_standard_error_the_strongest_wins() -> None:
    assert _within_one_error(np.zeros(10))
    assert _within_one_error(np.array([0.1, -0.1, 0.2, -0.15]))
    assert not _within_one_error(np.array([0.1, 0.1, 0.2, 0.15]))
    champion = fit(make_data(3000, 0)).head
    assert fit(make_data(60, 250, stay=500), champion).chosen.strength > 0.0


def test_the_temperature_makes_scores_as_sure_as_they_are_right() -> None:
    random = np.random.default_rng(0)
    logits = random.normal(0, 1, (4000, 3)).astype(np.float32)
    odds = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    labels = np.array([random.choice(3, p=row / row.sum()) for row in odds.astype(float)], np.int32)
    for factor in (0.4, 1.0, 3.0):
        assert find_temperature(logits * np.float32(factor), labels) == pytest.approx(factor, rel=0.1)
    assert find_temperature(logits[:0], labels[:0]) == 1.0
    few = find_temperature(np.eye(3, dtype=np.float32) * 4, np.arange(3, dtype=np.int32))
    assert few > 0.3  # three right answers are no proof of certainty


def test_the_minimum_is_the_one_that_scikit_learn_finds() -> None:
    from sklearn.linear_model import LogisticRegression

    x, y = draw(400, 8)
    features = Scaler.measure(x).apply(x)
    problem = Problem(features, np.eye(3, dtype=np.float32)[y], np.full(400, 1 / 400, np.float32))
    found = problem.minimise(0.05, tolerance=1e-9)
    reference = LogisticRegression(C=1 / (0.05 * 400), max_iter=2000, tol=1e-9).fit(features.astype(float), y)
    assert np.abs(found[:-1].T - reference.coef_).max() < 2e-3
    scores = features @ found[:-1].astype(np.float32) + found[-1].astype(np.float32)
    expected = -np.log(reference.predict_proba(features)[np.arange(400), y])
    assert np.abs(log_losses(scores, y) - expected).max() < 1e-2


def test_snapshots_that_no_head_can_be_fitted_to_are_refused() -> None:
    with pytest.raises(SnapshotUnusable, match="two labels"):
        fit(make_data(30, train_y=np.zeros(30, np.int32)))
    with pytest.raises(SnapshotUnusable, match="do not fit"):
        fit(make_data(30, train_y=np.full(30, 3, np.int32) - np.arange(30, dtype=np.int32) % 2))
    with pytest.raises(SnapshotUnusable, match="no numbers"):
        fit(make_data(30, stay=2, stay_x=np.full((2, WIDTH), np.nan, np.float16)))


def test_a_label_with_one_image_and_no_validation_at_all_still_makes_a_head() -> None:
    y = np.zeros(40, np.int32)
    y[0], y[1:20] = 2, 1
    fitted = fit(make_data(40, 0, train_y=y))
    assert np.isfinite(fitted.head.weights).all()
    assert fitted.validation["accuracy"] is None
    assert fitted.counts["train_per_label"] == {"cat": 20, "dog": 19, "owl": 1}


def test_progress_only_grows_and_ends_at_one() -> None:
    told: list[float] = []
    fit_head(make_data(stay=50), LABELS, "b" * 64, fit(make_data(100)).head, 0, told.append)
    assert told == sorted(told)
    assert told[-1] == 1.0


def test_near_duplicates_that_share_a_weight_teach_as_one_image_does() -> None:
    labels = np.array([0] * 40 + [1] * 10 + [1] * 30, np.int32)
    shares = np.array([1.0] * 50 + [1 / 30] * 30, np.float32)
    weights = weigh_labels(labels, shares)
    assert np.isclose(weights[50:].sum(), weights[40], rtol=1e-4)
    assert np.isclose(weights[40] / weights[0], np.sqrt(40 / 11), rtol=1e-4)

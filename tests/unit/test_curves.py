"""The curves of a full run: where their points lie, how their axes are cut, and when there are none."""

import pytest

from services.review import learning_words
from services.review.curves import (
    HEIGHT,
    INSET,
    LEFT,
    MOST_DOTS,
    MOST_EPOCH_NOTES,
    TOP,
    WIDTH,
    find_best,
    leave_room,
    make_curves,
)
from tests import tunings

RIGHT, BOTTOM = LEFT + WIDTH, TOP + HEIGHT


def tell(*figures: tuple[float, float], first: int = 1) -> list[dict]:
    return [
        {"epoch": first + i, "log_loss": loss, "accuracy": share} for i, (loss, share) in enumerate(figures)
    ]


def test_the_first_and_the_last_epoch_lie_at_the_ends_and_less_loss_lies_lower():
    curves = make_curves(tell((0.6, 0.7), (0.5, 0.8), (0.2, 0.9)), best_epoch=3)
    dots = curves.log_loss.dots
    assert [dot.x for dot in dots] == [LEFT + INSET, LEFT + WIDTH / 2, RIGHT - INSET]
    assert [dot.y for dot in dots] == [TOP, TOP + HEIGHT / 4, BOTTOM]
    assert [dot.y for dot in curves.right.dots] == [BOTTOM, TOP + HEIGHT / 2, TOP]
    assert curves.log_loss.line == f"{LEFT + INSET},{TOP} {LEFT + WIDTH / 2},61.0 {RIGHT - INSET},{BOTTOM}"
    assert [note.text for note in curves.log_loss.levels] == ["0.2", "0.3", "0.4", "0.5", "0.6"]
    assert [note.text for note in curves.right.levels] == [
        "70\u00a0%",
        "75\u00a0%",
        "80\u00a0%",
        "85\u00a0%",
        "90\u00a0%",
    ]
    assert [note.text for note in curves.epochs] == ["1", "2", "3"]
    assert dots[1].title == "Epoch 2: 0.5000"


def test_the_best_epoch_is_marked_in_both_and_its_words_stay_inside():
    curves = make_curves(tunings.make_history(12), best_epoch=9)
    for curve, said in ((curves.log_loss, "0.3102"), (curves.right, "91.1 %")):
        assert (curve.best.x, curve.best.y) == (curve.dots[8].x, curve.dots[8].y)
        assert curve.best.text == f"Best: epoch 9, {said}"
    assert [line.epoch for line in curves.lines if line.is_best] == [9]
    assert [line.epoch for line in curves.lines] == list(range(12, 0, -1))
    first = make_curves(tell((0.1, 0.9), (0.2, 0.8)), best_epoch=1).log_loss.best
    assert first.x < first.text_at < LEFT + WIDTH / 2
    last = make_curves(tell((0.2, 0.8), (0.1, 0.9)), best_epoch=2).log_loss.best
    assert LEFT + WIDTH / 2 < last.text_at < last.x
    assert make_curves(tell((0.2, 0.8), (0.1, 0.9)), best_epoch=None).right.best is None


@pytest.mark.parametrize(
    "history",
    [
        [],
        tell((0.5, 0.8)),
        tunings.make_history(8, measured=False),
        [{"epoch": 1}, *tell((0.5, 0.8), first=2)],
    ],
    ids=["none", "one", "unmeasured", "one measured"],
)
def test_fewer_than_two_epochs_with_figures_make_no_curve(history):
    assert make_curves(history, best_epoch=None) is None


def test_figures_that_never_change_are_a_line_inside_the_frame():
    for share, texts in ((1.0, ["99\u00a0%", "100\u00a0%"]), (0.0, ["0\u00a0%", "1\u00a0%"])):
        curves = make_curves(tell((0.0, share), (0.0, share)), best_epoch=1)
        assert [note.text for note in curves.right.levels] == texts
        assert [note.text for note in curves.log_loss.levels] == ["0.000", "0.001"]
        assert {dot.y for dot in curves.right.dots} <= {TOP, BOTTOM}


@pytest.mark.parametrize("losses", [(1e-5, 2e-5), (0.31, 0.3102), (0.3, 7.1), (13.0, 950.0), (0.6999, 0.1)])
def test_levels_are_round_few_and_around_all_figures(losses):
    curve = make_curves(tell(*((loss, 0.5) for loss in losses)), best_epoch=1).log_loss
    assert 2 <= len(curve.levels) <= 6
    numbers = [float(note.text) for note in curve.levels]
    assert numbers == sorted(set(numbers))
    assert numbers[0] <= min(losses) <= max(losses) <= numbers[-1]
    assert all(TOP <= dot.y <= BOTTOM for dot in curve.dots)


def test_a_long_training_has_a_line_without_dots_and_few_epochs_named():
    curves = make_curves(tell(*((1 / (i + 1), 0.5) for i in range(1000))), best_epoch=1000)
    assert curves.log_loss.dots == []
    assert len(curves.log_loss.line.split()) == len(curves.lines) == 1000
    assert [note.text for note in curves.epochs] == [f"{n}" for n in range(100, 1000, 100)] + ["1\u202f000"]
    assert curves.log_loss.best.x == RIGHT - INSET
    shown = make_curves(tell(*((0.5, 0.5) for _ in range(MOST_DOTS))), best_epoch=None)
    assert len(shown.right.dots) == MOST_DOTS
    assert len(shown.epochs) <= MOST_EPOCH_NOTES


def test_a_curve_that_grows_leaves_room_for_what_is_to_come():
    curves = make_curves(tunings.make_history(4), best_epoch=4, until=12)
    assert curves.log_loss.dots[0].x == LEFT + INSET
    assert curves.log_loss.dots[-1].x < LEFT + WIDTH / 3
    assert curves.epochs[-1].text == "12"
    assert [leave_room(done, 12) for done in (0, 4, 12)] == [12, 12, 12]
    assert [leave_room(done, 1000) for done in (0, 10, 11, 400, 600)] == [20, 20, 22, 800, 1000]


def test_the_best_epoch_so_far_is_known_only_where_every_epoch_is_told():
    assert find_best(tunings.make_history(12)) == 9
    assert find_best(tell((0.5, 0.8), (0.5, 0.9))) == 1  # later ones must be better, not as good
    assert find_best(tell((0.5, 0.8), (0.4, 0.9), first=37)) is None
    assert find_best(tunings.make_history(3, measured=False)) is None
    assert find_best([]) is None


@pytest.mark.parametrize("name", ["default", "faster-surfaces", "int8", "phone", "quick", "surfaces"])
def test_what_a_shipped_recipe_says_of_itself_is_a_message(name):
    assert tunings.read_recipe(name)["content"]["description"] in learning_words.DESCRIPTIONS

"""How much say a snapshot and the judging sets give to what no person approved."""

import hashlib
from collections import Counter

import pytest

from backtalk.admission import FEWEST_KEPT, Offered, admit, find_even_cap, limit_judges, weigh_repeats
from backtalk.states import Origin, Split

SALT = b"salt"
NUMBERS = iter(range(1, 10**9))


def offer(count: int = 1, **values: object) -> list[Offered]:
    """Samples of different pictures, each its own group."""
    made = []
    for _ in range(count):
        number = next(NUMBERS)
        given = {
            "sample_id": number,
            "label": "cat",
            "split": Split.TRAIN,
            "origin": Origin.CORRECTION,
            "by_person": False,
            "app": "app",
            "group": number,
            "pixels_sha256": hashlib.sha256(str(number).encode()).hexdigest(),
            "disputed": False,
        } | values
        made.append(Offered(**given))
    return made


def base(count: int, **values: object) -> list[Offered]:
    return offer(count, **({"origin": Origin.BASE, "by_person": True, "app": None} | values))


def ids(samples: list[Offered]) -> set[int]:
    return {sample.sample_id for sample in samples}


# --- caps ------------------------------------------------------------------------------------------
def test_an_apps_unapproved_corrections_are_a_twentieth_of_a_label_where_several_report():
    firm = base(200) + base(100, label="dog")
    flood = offer(90, app="mallory") + offer(90, app="mallory", label="dog")
    admitted = admit(firm + flood + offer(3, app="alice"), SALT)
    taken = Counter((s.app, s.label) for s in admitted.samples if not s.firm)
    assert taken == {("mallory", "cat"): 10, ("mallory", "dog"): 5, ("alice", "cat"): 3}
    assert admitted.left_out == {"capped": 165}
    assert admitted.capped == {"mallory": 165}
    assert admitted.counts() == {"left_out": {"capped": 165}, "capped": {"mallory": 165}}


def test_one_app_alone_is_not_capped():
    firm = base(200)
    flood = offer(90, app="mallory")
    audits = offer(5, app="silent", origin=Origin.AUDIT, by_person=True)  # it reported nothing
    admitted = admit(firm + audits + flood, SALT)
    assert len(admitted.samples) == 295
    assert admitted.counts() == {}


def test_apps_that_collude_have_a_fifth_of_a_label_together():
    firm = base(200)
    flood = [s for number in range(12) for s in offer(50, app=f"m{number}")]
    admitted = admit(firm + flood, SALT)
    assert sum(not s.firm for s in admitted.samples) == 40
    assert max(Counter(s.app for s in admitted.samples if not s.firm).values()) <= 10


def test_what_a_person_approved_is_never_capped():
    approved = offer(80, app="mallory", by_person=True)
    admitted = admit(base(100) + approved + offer(2, app="alice"), SALT)
    assert ids(approved) <= ids(admitted.samples)


def test_confirmations_of_one_app_are_half_of_a_label_where_several_report():
    confirmed = offer(300, app="mallory", origin=Origin.CONFIRMATION)
    admitted = admit(base(200) + confirmed + offer(1, app="alice"), SALT)
    assert sum(s.origin == Origin.CONFIRMATION for s in admitted.samples) == 100


def test_the_validation_side_has_caps_of_its_own():
    flood = offer(50, app="mallory", split=Split.VALIDATION)
    admitted = admit(base(400) + base(40, split=Split.VALIDATION) + flood + offer(1, app="alice"), SALT)
    assert sum(not s.firm and s.split == Split.VALIDATION for s in admitted.samples) == 2


def test_the_draw_is_the_same_again_and_keeps_what_it_had_when_more_comes():
    firm, flood = base(200), offer(60, app="mallory")
    first = ids(admit(firm + flood + offer(1, app="alice"), SALT).samples)
    again = ids(admit(firm + flood[::-1] + offer(1, app="alice"), SALT).samples)
    other = ids(admit(firm + flood + offer(1, app="alice"), b"pepper").samples)
    more = ids(admit(firm + base(200) + flood + offer(1, app="alice"), SALT).samples)
    assert first & ids(flood) == again & ids(flood) != other & ids(flood)
    assert first & ids(flood) < more & ids(flood)


def test_a_label_with_hardly_any_firm_sample_still_takes_one_from_each_app():
    admitted = admit(base(3) + offer(5, app="mallory") + offer(5, app="alice"), SALT)
    assert sum(not s.firm for s in admitted.samples) == 1  # together no more than a fifth, at least one


# --- disputes and near-duplicates ------------------------------------------------------------------
def test_a_disputed_sample_that_nobody_approved_is_not_learned_from():
    disputed, approved = offer(disputed=True), offer(disputed=True, by_person=True)
    admitted = admit(base(10) + disputed + approved, SALT)
    assert ids(admitted.samples).isdisjoint(ids(disputed))
    assert ids(approved) <= ids(admitted.samples)
    assert admitted.left_out == {"disputed": 1}


def test_of_near_duplicates_with_different_labels_those_of_people_stay():
    person = base(1, label="dog", group=-1)
    wrong, right = offer(group=-1), offer(group=-1, label="dog")
    admitted = admit(base(10) + person + wrong + right, SALT)
    assert ids(person + right) <= ids(admitted.samples)
    assert ids(admitted.samples).isdisjoint(ids(wrong))


def test_of_near_duplicates_that_contradict_each_other_without_a_person_none_is_learned_from():
    pair = offer(group=-1) + offer(group=-1, label="dog")
    admitted = admit(base(10) + pair, SALT)
    assert ids(admitted.samples).isdisjoint(ids(pair))
    assert admitted.left_out == {"contradicted": 2}


def test_near_duplicates_weigh_as_one_image_together_and_base_images_each_their_own():
    weights = weigh_repeats([(1, Origin.CORRECTION)] * 4 + [(1, Origin.BASE)] * 2 + [(None, Origin.AUDIT)])
    assert weights == [0.25] * 4 + [1.0] * 2 + [1.0]


def test_near_duplicates_judge_and_validate_once():
    first, second = offer(group=-1, by_person=True), offer(group=-1, by_person=True)
    other = offer(group=-1, by_person=True, label="dog")
    assert ids(limit_judges(second + first + other, SALT, kept=False)) == ids(first + other)
    validation = offer(3, group=-1, split=Split.VALIDATION, by_person=True)
    assert len(admit(base(2) + validation, SALT).samples) == 3


def test_base_images_judge_each():
    assert len(limit_judges(base(5, group=-1, split=Split.HOLDOUT), SALT, kept=False)) == 5


# --- who fills `kept` ------------------------------------------------------------------------------
def keep(app: str, count: int, **values: object) -> list[Offered]:
    return offer(count, app=app, split=Split.KEPT, origin=Origin.CONFIRMATION, **values)


@pytest.mark.parametrize(
    ("sizes", "share"),
    [
        ({"m": 500, "a": 40, "b": 40, "c": 40, "d": 40, "e": 40}, 0.2),
        ({"m": 500, "a": 30, "b": 30}, 1 / 3),
        ({"m": 500, "a": 30}, 1 / 2),
    ],
)
def test_no_app_fills_more_than_its_share_of_kept(sizes: dict[str, int], share: float):
    offered = [s for app, size in sizes.items() for s in keep(app, size)]
    judges = limit_judges(offered, SALT, kept=True)
    taken = Counter(s.app for s in judges)
    assert max(taken.values()) / len(judges) <= share + 1e-9
    assert all(taken[app] == size for app, size in sizes.items() if app != "m")
    assert len(limit_judges(offered, SALT, kept=False)) == len(offered)


def test_a_new_key_with_a_few_confirmations_does_not_empty_kept():
    offered = keep("app", 300) + keep("mallory", FEWEST_KEPT - 1)
    assert len(limit_judges(offered, SALT, kept=True)) == len(offered)


def test_answers_that_a_person_confirmed_stay_and_make_room():
    people = keep("m", 400, by_person=True)
    judges = limit_judges(people + keep("m", 500) + keep("a", 30), SALT, kept=True)
    assert ids(people) <= ids(judges)
    assert sum(s.app == "m" and not s.by_person for s in judges) / len(judges) <= 0.5


@pytest.mark.parametrize("sizes", [[20, 20], [1000, 20, 21], [50] * 6, [20] * 5, [700, 300, 20, 20, 20, 20]])
@pytest.mark.parametrize("others", [0, 7, 400])
def test_the_even_cap_is_the_largest_that_fits(sizes: list[int], others: int):
    share = max(0.2, 1 / len(sizes))

    def fits(cap: int) -> bool:
        taken = [min(size, cap) for size in sizes]
        return max(taken) <= share * (others + sum(taken))

    found = find_even_cap(sizes, others)
    assert fits(found) or found == FEWEST_KEPT
    assert found == max(sizes) or not fits(found + 1)

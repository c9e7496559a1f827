"""What lies between two datasets: whatever makes another digest is told."""

from dataclasses import replace
from typing import Any

import pytest

from backtalk.commands import datasets as command
from backtalk.datasetfiles import (
    UNLABELLED,
    Dataset,
    Description,
    Difference,
    Entry,
    compare,
    digest_entries,
)
from backtalk.states import Origin, Split

CAT = Entry("", "a" * 64, Split.TRAIN, "cat", Origin.CONFIRMATION, False, 8, 8, 0, 0, 0)
DOG = replace(CAT, pixels_sha256="b" * 64, label="dog")
SILENT = replace(CAT, split=UNLABELLED, label=None, origin=None, by_person=None)
CORRECTED = replace(CAT, origin=Origin.CORRECTION, by_person=True)


def make_dataset(*entries: Entry, left_out: dict[str, Any] | None = None) -> Dataset:
    digest = digest_entries(entries, left_out or {})
    return Dataset(Description("animals", ["cat", "dog"], digest, "", 0, left_out or {}), list(entries))


def show(difference: Difference, capsys: pytest.CaptureFixture[str]) -> str:
    command._print(difference)
    return capsys.readouterr().out


@pytest.mark.parametrize(
    ("before", "after", "name", "said"),
    [
        ([CAT], [CAT, DOG], "added", "+ train\tdog\tbbbb"),
        ([CAT, DOG], [CAT], "removed", "- train\tdog\tbbbb"),
        ([CAT, DOG], [replace(CAT, label="dog"), DOG], "relabelled", "~ cat -> dog\taaaa"),
        ([CAT], [replace(CAT, split=Split.VALIDATION)], "moved", "> train -> validation\taaaa"),
        ([SILENT], [CAT], "moved", "> unlabelled -> train\taaaa"),
        ([CAT], [CORRECTED], "changed", "! confirmation -> correction\taaaa"),
    ],
)
def test_each_kind_of_difference_is_told_as_what_it_is(
    before: list[Entry], after: list[Entry], name: str, said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    difference = compare(make_dataset(*before), make_dataset(*after))
    kinds = ("added", "removed", "relabelled", "moved", "changed")
    assert [kind for kind in kinds if getattr(difference, kind)] == [name]
    shown = show(difference, capsys)
    assert said in shown
    assert "No difference" not in shown
    told: Any = command._to_json(difference)
    assert [kind for kind in kinds if told[kind]] == [name]


def test_what_the_caps_left_out_is_a_difference(capsys: pytest.CaptureFixture[str]) -> None:
    left_out = {"left_out": {"disputed": 3}}
    difference = compare(make_dataset(CAT), make_dataset(CAT, left_out=left_out))
    assert not difference.is_empty
    assert 'left out: {} -> {"left_out": {"disputed": 3}}' in show(difference, capsys)
    assert command._to_json(difference)["left_out"] == {"before": {}, "after": left_out}


def test_the_same_content_in_another_order_and_encoding_is_no_difference(
    capsys: pytest.CaptureFixture[str],
) -> None:
    difference = compare(make_dataset(CAT, DOG), make_dataset(replace(DOG, file="x.png"), CAT))
    assert show(difference, capsys) == "No difference: 2 pictures.\n"

"""Feedback as an attack: keys that lie, alone and together, against the whole stack over HTTP.

What must hold: nothing goes live that is worse on digits that nobody else has seen, and the report names
who lied and nobody else, whether people look at corrections or not. `docs/poisoning.md` has how often it
does, and what a patient attacker can still do.
"""

import json
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from demo.client import Client
from demo.stack import Stack
from tests.acceptance.digits import Digit, Digits
from tests.acceptance.test_loop import QUICK, find_trainer, wait_for

pytestmark = pytest.mark.slow

LABELS = ("zero", "one", "two", "three", "four")
ENDED = {"promoted", "passed", "rejected", "inconclusive", "superseded", "failed"}
MARGIN = 0.02  # the policy's own: what the gate lets a candidate lose
LIE = {"zero": "four"}


@pytest.fixture(scope="module")
def stack(server_folder: Path) -> Iterator[Stack]:
    with Stack(server_folder / "poisoned", {"BACKTALK_POLL_S": "0.2", "BACKTALK_LEASE_S": "5"}) as stack:
        yield stack


@pytest.fixture(scope="module")
def digits() -> Digits:
    return Digits(LABELS)


@pytest.fixture(scope="module")
def folder(digits: Digits, server_folder: Path) -> Path:
    return digits.write_folder(300, server_folder / "five-digits")


@pytest.fixture(scope="module")
def traffic(digits: Digits, folder: Path) -> list[Digit]:
    return digits.take(400, inverted=False)


@pytest.fixture(scope="module")
def untouched(digits: Digits, traffic: list[Digit]) -> list[Digit]:
    """Digits that no app sends and nobody speaks of."""
    return digits.take(200, inverted=False)


@pytest.fixture(scope="module")
def admin(stack: Stack) -> Iterator[Client]:
    with_all = Client(stack.address, stack.create_key("admin", "admin"))
    yield with_all
    with_all.close()


class Apps:
    """Apps of one model, each with a key of its own."""

    def __init__(self, stack: Stack, model: str, *names: str) -> None:
        self.model = model
        self.truth: dict[str, str] = {}
        self.corrections: list[str] = []
        self.clients = {
            name: Client(stack.address, stack.create_key(f"{model}-{name}", "predict", "feedback"))
            for name in names
        }

    def send(self, name: str, sent: Sequence[Digit], *, lie: float = 0.0) -> int:
        """Correct what is wrong and confirm what is right, except for a share of the liar's class; lies."""
        app, lies, met = self.clients[name], 0, 0
        for digit in sent:
            answer = app.predict(self.model, digit.png)
            self.truth[answer["id"]] = digit.label
            met += digit.label == answer["label"] and digit.label in LIE
            if digit.label == answer["label"] and digit.label in LIE and lies < round(lie * met):
                lies += 1
                self._correct(app, answer["id"], LIE[digit.label], name)
            elif digit.label == answer["label"]:
                app.confirm(answer["id"], name)
            else:
                self._correct(app, answer["id"], digit.label, name)
        return lies

    def _correct(self, app: Client, prediction: str, label: str, name: str) -> None:
        self.corrections.append(app.correct(prediction, label, name)["id"])

    def key(self, name: str) -> str:
        return self.clients[name].key.split("_")[1]


def make_model(stack: Stack, folder: Path, name: str, review: str) -> str:
    stack.run("models", "create", name, "--from", folder, "--backbone", "tiny")
    stack.run("policy", "set", name, *QUICK, f"review={review}", "audit_share=0", "min_approved=100000")
    time.sleep(0.5)  # whether a prediction is audited follows the policy of the API's last poll
    return name


def count_right(admin: Client, model: str, digits: Sequence[Digit]) -> float:
    return sum(admin.predict(model, digit.png)["label"] == digit.label for digit in digits) / len(digits)


def learn(admin: Client, apps: Apps, *, decided: bool = True) -> dict[str, Any]:
    """A run on all that was said, when it has ended."""
    if decided:
        wait_for(lambda: all(admin.receipt(one)["state"] != "pending" for one in apps.corrections))
    return wait_for_end(admin, admin.train(apps.model)["id"])


def wait_for_end(admin: Client, run_id: str) -> dict[str, Any]:
    return wait_for(lambda: found if (found := admin.run(run_id))["state"] in ENDED else None)


def assert_no_regression(
    admin: Client, model: str, untouched: Sequence[Digit], before: float, run: dict[str, Any]
) -> None:
    """Whatever the verdict was, what answers now is no worse than what answered before."""
    assert run["state"] in {"promoted", "rejected", "inconclusive"}, run
    live = run["version"] if run["state"] == "promoted" else run["base_version"]
    wait_for(lambda: admin.predict(model, untouched[0].png)["version"] == live)
    assert count_right(admin, model, untouched) >= before - MARGIN


def list_doubtful(stack: Stack, model: str) -> dict[str, list[str]]:
    sources = json.loads(stack.run("reporters", model, "--json"))
    return {source["key"]: source["warnings"] for source in sources if source["warnings"]}


def decide_truly(admin: Client, apps: Apps) -> None:
    """A careful reviewer: right is what the digit is."""
    while any(admin.receipt(one)["state"] == "pending" for one in apps.corrections):
        for item in admin.lease(apps.model):
            right = apps.truth[item["prediction"]]
            if item["reported"] == right:
                admin.decide(item, "approve")
            else:
                admin.decide(item, "relabel", right)
        time.sleep(0.1)


@pytest.mark.fault(row=28, tries=1)
@pytest.mark.parametrize("review", ["auto", "required"])
def test_one_key_that_flips_a_fifth_of_a_class_ruins_nothing(
    stack: Stack,
    folder: Path,
    traffic: list[Digit],
    untouched: list[Digit],
    admin: Client,
    review: str,
) -> None:
    model = make_model(stack, folder, f"one-{review}", review)
    apps = Apps(stack, model, "alice", "bob", "mallory")
    before = count_right(admin, model, untouched)
    apps.send("alice", traffic[:80])
    apps.send("bob", traffic[80:160])
    lies = apps.send("mallory", traffic[160:360], lie=0.2)
    assert lies >= 5
    if review == "required":
        decide_truly(admin, apps)

    run = learn(admin, apps)

    assert_no_regression(admin, model, untouched, before, run)
    named = list_doubtful(stack, model)
    assert set(named) == {apps.key("mallory")}
    said = " ".join(named[apps.key("mallory")])
    assert ("stand out" if review == "auto" else "People found") in said
    assert apps.key("mallory") in stack.run("status", model)


@pytest.mark.fault(row=28, tries=3)
def test_keys_that_collude_for_three_rounds_ruin_nothing(
    stack: Stack, folder: Path, traffic: list[Digit], untouched: list[Digit], admin: Client
) -> None:
    model = make_model(stack, folder, "collude", "auto")
    liars = ("mallory", "trudy", "eve")
    apps = Apps(stack, model, "alice", *liars)
    for number in range(3):
        before = count_right(admin, model, untouched)
        part = traffic[number * 130 : (number + 1) * 130]
        attacked = [digit for digit in part if digit.label in LIE]  # liars choose what they send
        others = [digit for digit in part if digit.label not in LIE]
        apps.send("alice", others[:40])
        for n, liar in enumerate(liars):
            apps.send(liar, attacked[n::3] + others[40 + n :: 3], lie=1.0)
        run = learn(admin, apps)
        assert_no_regression(admin, model, untouched, before, run)
    counts = run["snapshot"]["counts"]
    assert set(counts["capped"]) >= {f"{model}-{liar}" for liar in liars}
    assert counts["left_out"]["capped"] >= sum(counts["capped"].values())
    assert set(list_doubtful(stack, model)) == {apps.key(liar) for liar in liars}


@pytest.mark.fault(row=28, tries=1)
def test_what_a_key_taught_is_taken_back_while_its_version_is_live(
    stack: Stack, folder: Path, traffic: list[Digit], untouched: list[Digit], admin: Client
) -> None:
    model = make_model(stack, folder, "taken-back", "auto")
    apps = Apps(stack, model, "mallory")
    apps.send("mallory", traffic[:80])
    run = learn(admin, apps)
    if run["state"] != "promoted":
        admin.promote(model, run["version"])  # nobody has lied yet; the holdout is small

    made = stack.run("retract", "--key", apps.key("mallory"))

    assert f"version {run['version']} is live and learned from withdrawn samples" in made
    clean = wait_for(
        lambda: next((r for r in admin.runs(model) if r["trigger_key"].startswith("withdrawn:")), None)
    )
    clean = wait_for_end(admin, clean["id"])
    versions = {version["number"]: version for version in admin.versions(model)}
    assert versions[run["version"]]["withdrawn"]["samples"] > 0
    assert versions[clean["version"]]["withdrawn"] is None
    assert versions[clean["version"]]["parent"] is None  # nothing of the live one is mixed in
    assert set(clean["snapshot"]["counts"]["origins"]) == {"base"}


@pytest.mark.fault(row=28, tries=1)
def test_a_key_that_is_withdrawn_in_the_middle_of_training_never_goes_live(
    stack: Stack, folder: Path, traffic: list[Digit], admin: Client
) -> None:
    model = make_model(stack, folder, "in-the-middle", "auto")
    apps = Apps(stack, model, "mallory")
    apps.send("mallory", traffic[:60], lie=1.0)
    wait_for(lambda: all(admin.receipt(one)["state"] != "pending" for one in apps.corrections))
    run_id = start_and_stop_in_the_middle(stack, admin, model)

    made = stack.run("retract", "--key", apps.key("mallory"))

    assert f"run {run_id} rested on it and ended" in made
    assert wait_for_end(admin, run_id)["state"] == "superseded"
    assert admin.model(model)["version"] == 1
    assert all(r["state"] != "promoted" for r in admin.runs(model))


@pytest.mark.fault(row=28, tries=1)
def test_a_rollback_during_training_stands_whatever_the_run_makes(
    stack: Stack, folder: Path, traffic: list[Digit], admin: Client
) -> None:
    model = make_model(stack, folder, "rolled-back", "auto")
    apps = Apps(stack, model, "alice")
    apps.send("alice", traffic[:60])
    run = learn(admin, apps)
    if run["state"] != "promoted":
        admin.promote(model, run["version"])
    run_id = start_and_stop_in_the_middle(stack, admin, model)

    admin.rollback(model)

    ended = wait_for_end(admin, run_id)
    assert ended["state"] in {"passed", "rejected", "inconclusive", "failed"}, ended
    assert admin.model(model)["version"] == 1
    assert "ok" in stack.run("verify", model).lower()


def start_and_stop_in_the_middle(stack: Stack, admin: Client, model: str) -> str:
    """A run whose trainer is stopped while it fits; it comes back to itself, or its lease runs out."""
    trainer = wait_for(lambda: find_trainer(stack))
    trainer.suspend()
    run_id = str(admin.train(model)["id"])
    wait_for(lambda: admin.run(run_id)["state"] == "training" and admin.run(run_id)["snapshot"])
    trainer.resume()
    return run_id

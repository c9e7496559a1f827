"""The loop, whole: real Postgres, Redis, Celery workers and trainer, spoken to over HTTP only."""

import json
import os
import re
import shutil
import signal
import subprocess
import time
from collections.abc import Callable, Iterator, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any, TypeVar

import psutil
import pytest

from backtalk.servers import RedisServer, free_port
from demo.client import CallFailed, Client
from demo.stack import Stack
from tests.acceptance.digits import LABELS, Digit, Digits

MODEL = "digits"
README = Path(__file__).parents[2] / "README.md"
ENDED = {"promoted", "rejected", "inconclusive", "failed"}
VERDICTS = ENDED - {"failed"}
QUICK = ("debounce_s=0", "cooldown_s=0", "nightly=null")

T = TypeVar("T")


class Broker:
    """A Redis that a test can stop and start again under the same address."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._port = free_port()
        self.start()

    def start(self) -> None:
        self._server = RedisServer.start(self._folder, port=self._port)

    def stop(self) -> None:
        self._server.stop()

    @property
    def url(self) -> str:
        return self._server.url()


@pytest.fixture(scope="module")
def broker(server_folder: Path) -> Iterator[Broker]:
    broker = Broker(server_folder / "broker")
    yield broker
    broker.stop()


@pytest.fixture(scope="module")
def stack(server_folder: Path, broker: Broker) -> Iterator[Stack]:
    stack = Stack(
        server_folder / "home",
        {"BACKTALK_REDIS_URL": broker.url, "BACKTALK_LEASE_S": "5", "BACKTALK_POLL_S": "0.2"},
    )
    stack.start()
    yield stack
    assert stack.stop(), "the stack did not stop by itself"


@pytest.fixture(scope="module")
def digits() -> Digits:
    return Digits()


@pytest.fixture(scope="module")
def model(stack: Stack, digits: Digits, server_folder: Path) -> str:
    folder = digits.write_folder(120, server_folder / "digits")
    stack.run("models", "create", MODEL, "--from", folder, "--backbone", "tiny")
    return MODEL


@pytest.fixture(scope="module")
def app(stack: Stack) -> Iterator[Client]:
    client = Client(stack.address, stack.create_key("app", "predict", "feedback"))
    yield client
    client.close()


@pytest.fixture(scope="module")
def reviewer(stack: Stack) -> Iterator[Client]:
    client = Client(stack.address, stack.create_key("reviewer", "review"))
    yield client
    client.close()


# --- the loop ------------------------------------------------------------------------------------
def test_reported_mistakes_become_a_better_version_that_answers_the_next_request(
    stack: Stack, model: str, digits: Digits, app: Client, reviewer: Client
) -> None:
    # The run waits for two quiet seconds, so that it learns from all that is decided here.
    quiet = (*QUICK, "debounce_s=2")
    stack.run("policy", "set", model, *quiet, "review=required", "audit_share=0.2", "min_approved=20")
    time.sleep(0.5)  # whether a prediction is audited follows the policy of the API's last poll
    sent = digits.take(160, inverted=True)
    fresh = digits.take(40, inverted=True)
    truth, corrections = talk_back(app, model, sent)
    before = count_right(app, model, fresh)

    answer_everything(reviewer, model, truth, corrections)
    run = wait_for_run(app, model)

    assert (run["state"], run["version"]) == ("promoted", 2), run
    assert wait_for(lambda: app.predict(model, fresh[0].png)["version"] == 2)
    after = count_right(app, model, fresh)
    assert after > before or after == len(fresh)  # by luck of the draw there may be nothing left to gain
    learned = [r for r in map(app.receipt, corrections) if r["split"] == "train"]
    assert learned
    for receipt in learned:
        assert (receipt["state"], receipt["trained_in"], receipt["live_in"]) == ("approved", 2, 2)
    judging = [r for r in map(app.receipt, corrections) if r["split"] not in ("train", "validation")]
    assert judging
    assert all(receipt["trained_in"] is None for receipt in judging)
    assert "ok" in stack.run("verify", model).lower()


# --- faults --------------------------------------------------------------------------------------
def test_corrections_that_arrive_while_redis_is_away_are_taken_and_learned_from_later(
    stack: Stack, model: str, digits: Digits, app: Client, broker: Broker
) -> None:
    set_automatic(stack, model)
    before = list_run_ids(app, model)
    broker.stop()
    try:
        corrections = report_wrongly_read(app, model, digits, 6)
        assert all(app.receipt(one)["state"] == "pending" for one in corrections)
    finally:
        broker.start()

    run = wait_for_run(app, model, besides=before)

    assert run["state"] in VERDICTS
    wait_for(lambda: all(app.receipt(one)["state"] == "approved" for one in corrections))


@pytest.mark.slow
def test_a_trainer_killed_in_the_middle_leaves_the_champion_serving_and_the_next_run_works(
    stack: Stack, model: str, digits: Digits, app: Client
) -> None:
    set_automatic(stack, model)
    before = list_run_ids(app, model)
    live = app.model(model)["version"]
    trainer = wait_for(lambda: find_trainer(stack))
    trainer.suspend()  # so that the run is in the middle of its work when the trainer dies
    report_wrongly_read(app, model, digits, 6)
    broken = wait_for(
        lambda: next((r for r in app.runs(model) if r["id"] not in before and r["state"] == "training"), None)
    )

    trainer.send_signal(signal.SIGKILL)

    probe = digits.take(1, inverted=False)[0]
    assert app.predict(model, probe.png)["version"] == live
    wait_for(lambda: app.run(broken["id"])["state"] in ENDED)
    good = wait_for(
        lambda: next((r for r in app.runs(model) if r["id"] not in before and r["state"] in VERDICTS), None)
    )
    assert good["version"] is not None


@pytest.mark.slow
def test_a_threshold_crossed_in_the_cooldown_brings_its_run_when_that_ends(
    stack: Stack, model: str, digits: Digits, app: Client
) -> None:
    set_automatic(stack, model)
    before = list_run_ids(app, model)
    report_wrongly_read(app, model, digits, 6)
    first = wait_for_run(app, model, besides=before)
    stack.run("policy", "set", model, "cooldown_s=6")

    report_wrongly_read(app, model, digits, 6)
    second = wait_for_run(app, model, besides={*before, first["id"]})

    waited_s = (moment(second["created_at"]) - moment(first["ended_at"])).total_seconds()
    assert waited_s >= 6
    assert any("cooldown" in check["reason"] for check in app.triggers(model) if not check["fired"])


def test_two_reporters_who_disagree_are_settled_by_one_decision(
    stack: Stack, model: str, digits: Digits, app: Client, reviewer: Client
) -> None:
    stack.run("policy", "set", model, *QUICK, "review=auto", "audit_share=0", "min_approved=1000")
    answer = app.predict(model, digits.take(1, inverted=True)[0].png)
    other = next_label(answer["label"])

    correction = app.correct(answer["id"], other, "alice")
    app.confirm(answer["id"], "bob")
    item = wait_for(lambda: next((i for i in reviewer.lease(model) if i["prediction"] == answer["id"]), None))
    assert app.receipt(correction["id"])["state"] == "disputed"
    assert item["reported"] == other
    reviewer.decide(item, "approve")

    assert app.receipt(correction["id"])["state"] == "approved"
    with pytest.raises(CallFailed, match="412"):
        reviewer.decide(item, "reject")


# --- the README ----------------------------------------------------------------------------------
@pytest.mark.skipif(not (shutil.which("jq") and shutil.which("curl")), reason="needs curl and jq")
def test_the_calls_of_the_readme_work_as_written(
    stack: Stack, model: str, digits: Digits, app: Client, reviewer: Client, tmp_path: Path
) -> None:
    stack.run("policy", "set", model, *QUICK, "review=required", "audit_share=0", "min_approved=1000")
    answer_everything(reviewer, model, {})  # whatever other tests left
    calls = re.search(r"<!-- calls: .*?-->\n```sh\n(.*?)```", README.read_text(encoding="utf-8"), re.DOTALL)
    assert calls
    photo = tmp_path / "photo.png"
    photo.write_bytes(digits.take(1, inverted=False)[0].png)
    right = next_label(app.predict(model, photo.read_bytes())["label"])
    key = stack.create_key("readme", "predict", "feedback", "review")
    words = {"API": stack.address, "KEY": key, "MODEL": model, "PHOTO": str(photo), "RIGHT": right}

    done = subprocess.run(
        ["bash", "-euo", "pipefail", "-c", calls[1]],
        env=os.environ | words,
        capture_output=True,
        text=True,
        check=False,
    )

    assert done.returncode == 0, done.stderr
    receipt = json.loads(done.stdout.splitlines()[-1])
    assert (receipt["state"], receipt["label"]) == ("approved", right)


# --- what the tests do ---------------------------------------------------------------------------
def set_automatic(stack: Stack, model: str) -> None:
    """Corrections are approved at once, and five of them start a run."""
    stack.run("policy", "set", model, *QUICK, "review=auto", "audit_share=0", "min_approved=5")
    time.sleep(0.5)  # whether a prediction is audited follows the policy of the API's last poll


def talk_back(app: Client, model: str, digits: Sequence[Digit]) -> tuple[dict[str, str], list[str]]:
    """Ask about each; correct what is wrong and confirm what is right: truth by prediction, and corrections.

    All mistakes are of one label here (an inverted zero is read as a one), so from corrections alone a
    candidate would learn that whatever is inverted is a zero, and the gate would rightly refuse it.
    """
    truth, corrections = {}, []
    for digit in digits:
        answer = app.predict(model, digit.png)
        truth[answer["id"]] = digit.label
        if answer["label"] != digit.label:
            corrections.append(app.correct(answer["id"], digit.label, "app")["id"])
        else:
            app.confirm(answer["id"], "app")
    return truth, corrections


def report_wrongly_read(app: Client, model: str, digits: Digits, n: int) -> list[str]:
    """`n` corrections, whatever the model says: another label where it happens to be right."""
    corrections = []
    for digit in digits.take(n, inverted=True):
        answer = app.predict(model, digit.png)
        label = digit.label if answer["label"] != digit.label else next_label(digit.label)
        corrections.append(app.correct(answer["id"], label, "app")["id"])
    return corrections


def next_label(label: str) -> str:
    return LABELS[1 - LABELS.index(label)]


def answer_everything(
    reviewer: Client, model: str, truth: dict[str, str], corrections: Sequence[str] = ()
) -> None:
    """Decide by the truth until `corrections` are decided and the queue stays empty; reject what has none."""
    empty = 0
    while empty < 3 or any(reviewer.receipt(one)["state"] == "pending" for one in corrections):
        items = reviewer.lease(model)
        for item in items:
            answer_one(reviewer, item, truth.get(item["prediction"]))
        empty = 0 if items else empty + 1
        time.sleep(0.0 if items else 0.2)


def answer_one(reviewer: Client, item: dict[str, Any], right: str | None) -> None:
    try:
        if right is None:
            reviewer.decide(item, "reject")
        elif (item["reported"] or item["predicted"]) == right:
            reviewer.decide(item, "approve")
        else:
            reviewer.decide(item, "relabel", right)
    except CallFailed as error:
        if error.status != 412:  # a correction has come to an audit: it is offered anew
            raise


def count_right(app: Client, model: str, digits: Sequence[Digit]) -> int:
    return sum(app.predict(model, digit.png)["label"] == digit.label for digit in digits)


def list_run_ids(app: Client, model: str) -> set[str]:
    return {run["id"] for run in app.runs(model)}


def wait_for_run(app: Client, model: str, besides: set[str] = frozenset()) -> dict[str, Any]:  # type: ignore[assignment]
    """The first run that is not in `besides`, when it has ended."""

    def find() -> dict[str, Any] | None:
        new = [run for run in app.runs(model) if run["id"] not in besides]
        return app.run(new[-1]["id"]) if new and new[-1]["state"] in ENDED else None

    return wait_for(find)


def find_trainer(stack: Stack) -> psutil.Process | None:
    """The trainer that waits, warm, for the next head run."""
    for process in psutil.Process(stack.pid).children(recursive=True):
        if "backtalk.learn.trainer" in " ".join(process.cmdline()):
            return process
    return None


def moment(value: str) -> datetime:
    return datetime.fromisoformat(value)


def wait_for(find: Callable[[], T | None], patience_s: float = 120.0) -> T:
    """What `find` finds, as soon as it does."""
    deadline = time.monotonic() + patience_s
    while time.monotonic() < deadline:
        if found := find():
            return found
        time.sleep(0.1)
    raise AssertionError(f"did not come in {patience_s:.0f} s")

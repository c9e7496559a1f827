"""`backtalk reporters` and `backtalk retract` on a real database."""

import json

from backtalk.db import Database
from backtalk.states import CorrectionState
from backtalk.tables import Correction, Model
from tests import factories as make
from tests.integration.test_cli import Backtalk, said
from tests.integration.test_cli import backtalk as backtalk  # noqa: PLC0414
from tests.integration.test_feedback import correct, predict
from tests.integration.test_retraction import add_key, go_live, learn, model_of


def test_a_key_is_withdrawn_and_what_follows_is_told(backtalk: Backtalk, database: Database):
    with database.transaction() as session:
        add_key(session)
        prediction = predict(session, policy={"review": "auto"})
        correction_id = correct(session, prediction).id
        learn(session, model_of(session, prediction), 2)
        go_live(session, model_of(session, prediction), 2)
    result = backtalk("retract", "--key", "bt_app_secret")
    assert result.exit_code == 0
    assert "Withdrew 1 corrections, 0 confirmations and 1 samples." in result.stdout
    assert "animals: versions that learned from it: 2" in result.stdout
    assert "version 2 is live and learned from withdrawn samples" in result.stdout
    assert "keys revoke app" in result.stderr
    with database.reading() as session:
        assert session.get_one(Correction, correction_id).state == CorrectionState.RETRACTED
    shown = backtalk("status", "animals").stdout
    assert "Version 2 learned from samples that were withdrawn since" in shown


def test_one_thing_at_a_time_is_withdrawn(backtalk: Backtalk):
    assert said(backtalk("retract")).startswith("Name one thing to withdraw")
    assert said(backtalk("retract", "--key", "a", "--reporter", "b")).startswith("Name one thing to withdraw")


def test_status_and_reporters_name_the_doubtful_key(backtalk: Backtalk, database: Database):
    with database.transaction() as session:
        add_key(session)
        for _ in range(6):
            correct(session, predict(session, scores=[0.999, 0.001], policy={"review": "auto"}))
        assert make.count(session, Model) == 1
    assert "LOOK: 6 of 6 corrections are marked" in backtalk("reporters", "animals").stdout
    assert "Doubtful: key app (app). 6 of 6 corrections are marked" in backtalk("status", "animals").stdout
    (source,) = json.loads(backtalk("reporters", "animals", "--json").stdout)
    assert (source["key"], source["marked_share"]) == ("app", 1.0)


def test_reporters_of_a_silent_model(backtalk: Backtalk, database: Database):
    with database.transaction() as session:
        make.make_model(session)
    assert "Nobody has said anything yet." in backtalk("reporters", "animals").stdout

"""Accuracy on live traffic: of answered audits alone, by version, with an interval."""

import pytest

from backtalk.live_accuracy import find_live_accuracy
from backtalk.states import Action
from backtalk.tables import Decision
from tests import factories as make


def add_audit(session, model, said=None, *, version=1, answered=True, **decision):
    """An audit of a prediction `cat`; `said` is what a person found right, None that he found nothing."""
    prediction = make.make_prediction(session, model, label="cat", audit=True, version=version)
    item = make.make_item(session, prediction)
    if answered:
        decision = {"counts": said is not None} | decision
        row = Decision(
            model_id=model.id,
            item_id=item.id,
            prediction_id=prediction.id,
            action=Action.REJECT if said is None else Action.RELABEL,
            label=said,
            **({"actor": "user:ada", "final": True} | decision),
        )
        return make.add(session, row)
    return None


def test_only_the_last_word_of_a_person_on_an_audit_counts(database):
    with database.reading() as session:
        model = make.make_model(session)
        for said in ("cat", "cat", "cat", "dog"):
            add_audit(session, model, said)
        add_audit(session, model)  # unclear
        add_audit(session, model, answered=False)
        add_audit(session, model, "dog", actor="policy")  # a person is still waited for
        add_audit(session, model, "dog", final=False, counts=False)  # the first of two reviewers
        undone = add_audit(session, model, "dog")
        make.add(
            session,
            Decision(
                model_id=model.id,
                item_id=undone.item_id,
                prediction_id=undone.prediction_id,
                action=Action.UNDO,
                actor="user:ada",
                final=False,
                counts=False,
                undoes=undone.id,
            ),
        )
        make.make_decision(session, model)  # somebody reported it: chosen, so it says nothing of the rest
        add_audit(session, model, "cat", version=2)
        newer, first = find_live_accuracy(session, model)
        assert (first.version, first.drawn, first.answered, first.right) == (1, 9, 4, 3)
        assert (first.unclear, first.waiting, first.share) == (1, 4, 0.75)
        assert (first.low, first.high) == pytest.approx((0.3006, 0.9544), abs=1e-4)  # Wilson, 3 of 4
        assert (newer.version, newer.share, newer.high) == (2, 1.0, 1.0)


def test_the_api_and_the_command_line_tell_it(api, monkeypatch):
    with api.system.db.transaction() as session:
        model = make.make_model(session)
        add_audit(session, model, "cat")
        add_audit(session, model, version=2, answered=False)
    body = api.get("/v1/models/animals/accuracy").get_json()
    assert [one["version"] for one in body["items"]] == [2, 1]
    assert (body["items"][0]["share"], body["items"][1]["share"]) == (None, 1.0)
    assert api.get("/v1/models/nowhere/accuracy").status_code == 404

    from backtalk.commands import inspection

    with api.system.db.reading() as session:
        gathered = inspection._gather(session, session.merge(model))
    assert [one["waiting"] for one in gathered["live_accuracy"]] == [1, 0]
    inspection._print_status(gathered)

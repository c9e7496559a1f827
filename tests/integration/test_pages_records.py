"""The ledger and the audit log as pages: whole or broken, filtered, paged, and the log for admins alone."""

import re

import pytest
from flask.testing import FlaskClient
from sqlalchemy import text

from backtalk import audit
from backtalk.states import Scope
from backtalk.system import System
from services.review import records
from services.wsgi import create_app
from tests import factories, showroom
from tests.integration.test_pages_sign_in import sign_in


@pytest.fixture
def client(system: System) -> FlaskClient:
    showroom.add_person(system, scopes=showroom.EVERYTHING)
    with system.db.transaction() as session:
        showroom.add_history(session, factories.make_model(session, "cells"))
    client = create_app(system=system).test_client()
    sign_in(client)
    return client


def tamper(owner_database, statement: str) -> None:  # type: ignore[no-untyped-def]
    """As somebody with all rights on the tables could."""
    with owner_database.transaction() as session:
        session.execute(text("SET LOCAL session_replication_role = replica"))
        session.execute(text(statement))


def test_the_ledger_is_walked_filtered_and_says_where_it_was_changed(client, owner_database, monkeypatch):
    page = client.get("/models/cells/ledger").text
    assert "Chain verified just now: all 3 entries" in page
    promotions = client.get("/models/cells/ledger?action=promote").text
    assert promotions.count('<span class="log-when">') == 2
    assert "No change of this kind" in client.get("/models/cells/ledger?action=rollback").text
    assert client.get("/models/cells/ledger?action=steal").status_code == 422
    tamper(owner_database, "UPDATE ledger SET actor = 'user:mallory' WHERE seq = 2")
    page = client.get("/models/cells/ledger").text
    assert "The chain is broken." in page
    assert "Entry 2 was altered: its hash does not match." in page
    # A long chain is walked only when somebody asks for it.
    monkeypatch.setattr(records, "WALKED_AT_ONCE", 2)
    page = client.get("/models/cells/ledger").text
    assert "Check the whole chain" in page
    assert "broken" not in page
    assert "The chain is broken." in client.get("/models/cells/ledger?check=all").text


def test_the_audit_log_is_for_admins_and_can_be_filtered_and_turned_over(client, system, owner_database):
    with system.db.transaction() as session:
        for i in range(records.A_PAGE + 5):
            audit.record(session, "user:eve", "policy.set", "model:cells", nth=i)
        audit.record(session, "key:app", "decision.approve", "model:other", label="<b>x</b>")
    page = client.get("/audit").text
    assert "Chain verified just now" in page
    assert "&lt;b&gt;" not in page.split("<tbody>")[0]
    assert "<b>x</b>" not in page
    only = client.get("/audit?actor=user:eve").text
    rows = re.findall(r'<th scope="row" class="right number">', only)
    assert len(rows) == records.A_PAGE
    older = re.search(r'href="([^"]+)">Older<', only)[1].replace("&amp;", "&")
    assert client.get(older).text.count('<th scope="row" class="right number">') == 5
    for query in ("model=other", "action=decision", "action=decision.approve"):
        assert client.get(f"/audit?{query}").text.count('<th scope="row" class="right number">') == 1
    assert "No entry fits" in client.get("/audit?action=decis").text
    assert client.get("/audit?before=x").status_code == 422
    assert client.get("/audit?actor=%00").status_code == 422
    tamper(owner_database, "DELETE FROM audit_log WHERE seq = 2")
    assert "Entry 2 is missing: the next is 3." in client.get("/audit").text


def test_nobody_but_an_admin_sees_the_audit_log_or_a_link_to_it(client, system):
    showroom.add_person(system, "bob", (Scope.REVIEW, Scope.TRAIN, Scope.PROMOTE))
    bob = create_app(system=system).test_client()
    sign_in(bob, "bob")
    assert bob.get("/audit").status_code == 403
    assert "Audit log" not in bob.get("/").text
    assert "Audit log" in client.get("/").text

"""No page and no call of a review reads through a table that grows with traffic: plans tell, not clocks."""

from collections.abc import Iterator
from typing import Any

import pytest
from sqlalchemy import event
from sqlalchemy.orm import Session

from backtalk.serving import LiveModels
from backtalk.system import System
from bench.page_requests import Ask, list_requests
from bench.queue_filling import fill_queue
from services.wsgi import create_app
from tests import showroom

GROWING = {"predictions", "review_items", "corrections", "confirmations", "decisions", "images", "embeddings"}
#: Partial indexes with few rows: what was drawn for audit, what has no open end, …
SMALL = {"ix_predictions_audited", "uq_decisions_undoes", "ix_review_items_flagged"}
#: What reads a whole history, and says so: reports for admins, asked for now and then.
REPORTS = {"reviewers", "API: reporters"}
BLOCKING = {"Aggregate", "Sort", "WindowAgg", "Unique", "Hash", "HashAggregate", "Materialize"}
Statement = tuple[str, Any]


@pytest.fixture(scope="module")
def plans() -> dict[str, list[str]]:
    """Scans without bounds by request; filled by the first test that asks."""
    return {}


@pytest.fixture
def scans(system: System, owner_url: str, plans: dict[str, list[str]]) -> dict[str, list[str]]:
    if not plans:
        showroom.add_person(system, "ada", showroom.EVERYTHING)
        fill_queue(system, owner_url, pending=1_000, predictions=3_000, base=300)
        client = create_app(system=system, live=LiveModels(system)).test_client()
        for name, ask in list_requests(client, system).items():
            plans[name] = [found for said in watch(system, ask) for found in list_scans(system, said)]
    return plans


def watch(system: System, ask: Ask) -> list[Statement]:
    """What a request asks of the database; each statement once."""
    said: dict[str, Any] = {}

    def note(_connection: Any, _cursor: Any, statement: str, values: Any, *_: Any) -> None:
        said.setdefault(statement, values)

    if ask.before is not None:
        ask.before()
    event.listen(system.db.engine, "before_cursor_execute", note)
    try:
        answered = ask.call()
    finally:
        event.remove(system.db.engine, "before_cursor_execute", note)
    assert answered.status_code < 400, answered.text
    return list(said.items())


def list_scans(system: System, said: Statement) -> list[str]:
    statement, values = said
    if not statement.lstrip().upper().startswith(("SELECT", "WITH", "UPDATE", "DELETE")):
        return []
    with system.db.reading() as session:
        plan = explain(session, statement, values[0] if isinstance(values, list) else values)
    return [f"{scan} by {' '.join(statement.split())[:120]}" for scan in find_scans(plan)]


def explain(session: Session, statement: str, values: Any) -> dict[str, Any]:
    """The plan where what scales badly is shunned as it would be among very many rows."""
    connection = session.connection()
    for method in ("seqscan", "bitmapscan", "hashjoin", "mergejoin"):
        connection.exec_driver_sql(f"SET LOCAL enable_{method} = off")
    row = connection.exec_driver_sql(f"EXPLAIN (FORMAT JSON) {statement}", values).scalar_one()
    plan: dict[str, Any] = row[0]["Plan"]
    return plan


def find_scans(node: dict[str, Any], *, bounded: bool = False) -> Iterator[str]:
    """Reads of growing tables that neither a condition beyond the model's nor a limit keeps short."""
    if node["Node Type"] == "Limit":
        bounded = True
    elif node["Node Type"] in BLOCKING:
        bounded = False
    if node.get("Relation Name") in GROWING and not bounded and is_wide(node):
        yield f"{node['Node Type']} on {node['Relation Name']} {node.get('Index Name', '')}"
    for child in node.get("Plans", ()):
        yield from find_scans(child, bounded=bounded)


def is_wide(node: dict[str, Any]) -> bool:
    if node["Node Type"] == "ModifyTable":
        return False  # what it reads is below
    condition = node.get("Index Cond", "")
    of_the_model = condition.startswith("(model_id = ") and " AND " not in condition
    return node.get("Index Name") not in SMALL and (not condition or of_the_model)


def test_no_page_and_no_call_reads_through_what_grows_with_traffic(scans: dict[str, list[str]]) -> None:
    found = {name: wide for name, wide in scans.items() if wide and name not in REPORTS}
    assert found == {}


def test_what_is_called_a_report_is_one(scans: dict[str, list[str]]) -> None:
    assert {name for name in REPORTS if scans[name]} == REPORTS


def test_a_count_over_everything_would_be_found(system: System) -> None:
    for statement in (
        "SELECT count(*) FROM predictions",
        "SELECT count(*) FROM predictions WHERE model_id = 1",
        "SELECT count(*) FROM review_items WHERE model_id = 1 AND closed_at IS NULL",
        "SELECT count(*) FROM corrections WHERE reviewed_at IS NULL LIMIT 5",
        "SELECT id FROM review_items WHERE model_id = 1 AND closed_at IS NULL ORDER BY created_at LIMIT 5",
    ):
        assert list_scans(system, (statement, None)), statement


def test_bounded_and_narrow_reads_would_not(system: System) -> None:
    for statement in (
        "SELECT id FROM review_items WHERE model_id = 1 AND closed_at IS NULL ORDER BY id LIMIT 5",
        "SELECT count(*) FROM (SELECT FROM review_items WHERE model_id = 1 AND closed_at IS NULL LIMIT 9) x",
        "SELECT count(*) FROM corrections WHERE prediction_id = '01930000-0000-7000-8000-000000000000'",
    ):
        assert list_scans(system, (statement, None)) == [], statement

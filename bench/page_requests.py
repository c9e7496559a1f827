"""What is asked of the server to time it: every page, and every call of a review, by somebody who may all."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import partial
from itertools import product
from typing import Any
from uuid import UUID, uuid4

from flask.testing import FlaskClient
from sqlalchemy import select
from werkzeug.test import TestResponse

from backtalk.states import RunState, Scope
from backtalk.system import System
from backtalk.tables import Model, Prediction, ReviewItem, Run
from services.review.selection import SORTS
from tests.clients import make_key
from tests.showroom import PASSWORD

Call = Callable[[], TestResponse]
MODEL = "/models/animals"
SENT_AT_ONCE = 6  # answers of a batch in one request (outbox.js)
GRID = "/review/animals/grid"


@dataclass(frozen=True)
class Ask:
    """What is timed, and what has to happen before each time."""

    call: Call
    before: Call | None = None


@dataclass(frozen=True)
class Known:
    """What of the model stands in addresses."""

    run: UUID
    live: int
    before: int
    item: UUID
    group: int | None
    image: UUID


def list_requests(client: FlaskClient, system: System) -> dict[str, Ask]:
    """By name, in the order in which they are asked; the client is signed in by this."""
    client.post("/sign-in", data={"name": "ada", "password": PASSWORD})
    csrf = client.get("/").text.split('data-csrf="', 1)[1].split('"', 1)[0]
    known = _look_up(system)
    desk = _Desk(client, csrf, {"Authorization": f"Bearer {make_key(system, *Scope)}"})
    pages = {name: Ask(partial(client.get, path)) for name, path in _list_pages(known)}
    return pages | _list_tiles(desk, known) | _list_calls(desk)


def _look_up(system: System) -> Known:
    with system.db.reading() as session:
        model = session.scalars(select(Model)).one()
        run = session.scalars(select(Run.id).where(Run.state == RunState.PROMOTED).order_by(Run.id.desc()))
        item, group, image = session.execute(
            select(ReviewItem.id, ReviewItem.group_id, Prediction.image_id)
            .join(Prediction, Prediction.id == ReviewItem.prediction_id)
            .where(ReviewItem.closed_at.is_(None))
            .order_by(ReviewItem.id)
            .offset(500)
            .limit(1)
        ).one()
        return Known(run.first() or uuid4(), model.live_version or 1, 1, item, group, image)


# --- pages -------------------------------------------------------------------------------------
def _list_pages(known: Known) -> Iterator[tuple[str, str]]:
    yield "home", "/"
    yield "model", MODEL
    yield "model, polled", f"{MODEL}/live"
    yield "focus view", "/review/animals"
    yield "focus view, one queue", "/review/animals?queue=corrections"
    for by, queue in product(("pair", "likeness"), ("", "corrections", "audits")):
        yield f"grid by {by}{queue and ', ' + queue}", f"{GRID}?by={by}&queue={queue}"
    yield "grid by pair, one reporter", f"{GRID}?reporter=line-7"
    yield "grid by size", f"{GRID}?sort=size"
    yield "reviewers", "/review/animals/reviewers"
    yield "runs", f"{MODEL}/runs"
    yield "run", f"{MODEL}/runs/{known.run}"
    yield "flips of a run", f"{MODEL}/runs/{known.run}/flips"
    yield "run now?", f"{MODEL}/run-now"
    yield "triggers", f"{MODEL}/triggers"
    yield "versions", f"{MODEL}/versions"
    yield "version", f"{MODEL}/versions/{known.live}"
    yield "promote?", f"{MODEL}/versions/{known.before}/promote"
    yield "roll back?", f"{MODEL}/roll-back"
    yield "compare", f"{MODEL}/compare?before={known.before}&after={known.live}"
    yield (
        "flips of a comparison",
        f"{MODEL}/compare/flips?before={known.before}&after={known.live}&way=fixed",
    )
    yield "picture", f"{MODEL}/images/{known.image}"
    yield "ledger", f"{MODEL}/ledger"
    yield "policy", f"{MODEL}/policy"
    yield "audit", "/audit"
    yield "audit, one actor", "/audit?actor=user:nobody"
    yield "people", "/people"
    yield "keys", "/keys"
    yield "account", "/account"


# --- calls -------------------------------------------------------------------------------------
@dataclass
class _Desk:
    """Posts as the pages do, and with a key as an app does; knows what it holds and answered last."""

    client: FlaskClient
    csrf: str
    key: dict[str, str]
    held: list[dict[str, Any]] = field(default_factory=list)
    made: list[tuple[str, str]] = field(default_factory=list)

    def post(self, path: str, body: object) -> TestResponse:
        headers = {"Accept": "application/json", "X-CSRF-Token": self.csrf}
        return self.client.post(f"/review/animals/{path}", json=body, headers=headers)

    def lease(self, limit: int, queue: str | None = None) -> TestResponse:
        return self._hold(self.post("lease", {"limit": limit, "queue": queue}))

    def fill_grid(self, **selection: Any) -> TestResponse:
        return self._hold(self.post("grid/lease", {"selection": selection, "hold": []}))

    def lease_by_key(self, limit: int) -> TestResponse:
        return self._hold(self.client.get(f"/v1/models/animals/review?limit={limit}", headers=self.key))

    def approve(self, n: int) -> TestResponse:
        items, batch = self.held[:n], str(uuid4())
        self.made = [(str(uuid4()), one["item"]) for one in items]
        return self._answer(
            [
                {"id": made, "batch": batch, "item": item, "action": "approve", "etag": one["etag"]}
                for (made, item), one in zip(self.made, items, strict=True)
            ]
        )

    def approve_by_key(self) -> TestResponse:
        item = self.held[0]
        path, headers = f"/v1/review/{item['item']}/decisions", self.key | {"If-Match": item["etag"]}
        return self.client.post(path, json={"action": "approve"}, headers=headers)

    def undo(self) -> TestResponse:
        return self._answer(
            [{"id": str(uuid4()), "item": item, "action": "undo", "undoes": made} for made, item in self.made]
        )

    def _hold(self, answered: TestResponse) -> TestResponse:
        self.held = answered.json["items"] if answered.json else []
        return answered

    def _answer(self, answers: list[dict[str, Any]]) -> TestResponse:
        answered = self.post("answers", {"answers": answers})
        states = {one["state"] for one in (answered.json or {}).get("results", [])}
        if states != {"taken"}:
            raise RuntimeError(f"not all answers were taken: {answered.text[:300]}")
        return answered


def _list_tiles(desk: _Desk, known: Known) -> dict[str, Ask]:
    pair = {"predicted": "cat", "reported": "dog"}
    chosen: dict[str, dict[str, str]] = {
        **{sort: {"sort": sort, "by": "none"} for sort in SORTS},
        **{f"of a pair, {sort}": {"sort": sort} | pair for sort in SORTS},
        "of a reporter, margin": {"reporter": "line-7", "sort": "margin"},
        "of near-duplicates": {"by": "likeness", "group": str(known.group)},
        "audits": {"queue": "audits", "by": "none"},
        "audits, doubt": {"queue": "audits", "by": "none", "sort": "doubt"},
        "disputed": {"queue": "disputed", "by": "none"},
        "flagged": {"flagged": "1", "by": "none"},
        "uncertain": {"queue": "uncertain", "by": "none"},
        "similar": {"like": str(known.item), "by": "none"},
    }
    return {f"tiles, {name}": Ask(partial(desk.fill_grid, **one)) for name, one in chosen.items()}


def _list_calls(desk: _Desk) -> dict[str, Ask]:
    eight, tiles = partial(desk.lease, 8), partial(desk.fill_grid, by="none")
    one, some = partial(desk.approve, 1), partial(desk.approve, SENT_AT_ONCE)

    def decided(before: Call, approve: Call) -> Call:
        def act() -> TestResponse:
            before()
            return approve()

        return act

    return {
        "lease 8": Ask(eight),
        "lease 8, corrections": Ask(partial(desk.lease, 8, "corrections")),
        "lease 8, uncertain": Ask(partial(desk.lease, 8, "uncertain")),
        "decide": Ask(one, before=eight),
        "undo": Ask(desk.undo, before=decided(eight, one)),
        f"decide {SENT_AT_ONCE} of a batch": Ask(some, before=tiles),
        f"undo {SENT_AT_ONCE} of a batch": Ask(desk.undo, before=decided(tiles, some)),
        "API: lease 50": Ask(partial(desk.lease_by_key, 50)),
        "API: decide": Ask(desk.approve_by_key, before=partial(desk.lease_by_key, 1)),
        "API: queues": Ask(partial(desk.client.get, "/v1/models/animals/queues", headers=desk.key)),
        "API: accuracy": Ask(partial(desk.client.get, "/v1/models/animals/accuracy", headers=desk.key)),
        "API: reporters": Ask(partial(desk.client.get, "/v1/models/animals/reporters", headers=desk.key)),
        "API: decisions": Ask(partial(desk.client.get, "/v1/models/animals/decisions", headers=desk.key)),
    }

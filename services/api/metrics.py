"""Figures for Prometheus: of this process, and of the rows that tell whether the loop moves."""

import time
from collections.abc import Callable, Iterator
from threading import Lock

from flask import Flask, Response, current_app, g, request
from flask_openapi import APIBlueprint, Tag
from prometheus_client import CollectorRegistry, Counter, Histogram, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from sqlalchemy import func, select
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.orm import Session

from backtalk import outbox
from backtalk.errors import Unavailable
from backtalk.queues import counts_in
from backtalk.states import ACTIVE_RUN_STATES
from backtalk.tables import Model, ReviewItem, Run
from services.api import admission
from services.api.admission import Admission
from services.api.broker import Broker, get_broker
from services.api.health import NO_KEY
from services.api.shapes import name_operation
from services.backend import Backend

blueprint = APIBlueprint(
    "metrics", __name__, abp_tags=[Tag(name="operations")], operation_id_callback=name_operation
)

_EXTENSION = "backtalk-metrics"
_TEXT = "text/plain; version=0.0.4; charset=utf-8"
_BUCKETS_S = (0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0)


class Metrics:
    """One registry per app, so that several apps in one process do not mix."""

    def __init__(
        self, backend: Backend, get_admission: Callable[[], Admission], get_broker: Callable[[], Broker]
    ) -> None:
        self.registry = CollectorRegistry()
        self.requests = Counter(
            "backtalk_http_requests",
            "Requests answered.",
            ["method", "route", "status"],
            registry=self.registry,
        )
        self.seconds = Histogram(
            "backtalk_http_request_seconds",
            "From the first byte read to the answer made.",
            ["method", "route"],
            buckets=_BUCKETS_S,
            registry=self.registry,
        )
        self.predictions = Counter(
            "backtalk_predictions",
            "Predictions recorded and answered.",
            ["model", "version"],
            registry=self.registry,
        )
        self.registry.register(RoomFigures(get_admission))
        self.registry.register(BrokerFigures(get_broker))
        self.registry.register(LiveFigures(backend))
        self.registry.register(LoopFigures(backend))


def register(app: Flask, backend: Backend) -> None:
    app.extensions[_EXTENSION] = Metrics(
        backend, lambda: admission.get_admission(app), lambda: get_broker(app)
    )
    app.before_request(_start_clock)
    app.after_request(_count_request)


def count_predictions(model: str, version: int, number: int) -> None:
    metrics: Metrics = current_app.extensions[_EXTENSION]
    metrics.predictions.labels(model, version).inc(number)


@blueprint.get(
    "/metrics",
    summary="Figures for Prometheus",
    responses={200: {"content": {"text/plain": {"schema": {"type": "string"}}}}},
    openapi_extensions=NO_KEY,
)
def get_metrics() -> Response:
    metrics: Metrics = current_app.extensions[_EXTENSION]
    return Response(generate_latest(metrics.registry), content_type=_TEXT)


def _start_clock() -> None:
    g.began = time.perf_counter()


def _count_request(response: Response) -> Response:
    metrics: Metrics = current_app.extensions[_EXTENSION]
    # The rule, never the path: a scanner's guesses must not become one series each.
    route = request.url_rule.rule if request.url_rule else "unknown"
    method = request.method if request.url_rule else "any"
    metrics.requests.labels(method, route, response.status_code).inc()
    if "began" in g:
        metrics.seconds.labels(method, route).observe(time.perf_counter() - g.began)
    return response


class RoomFigures:
    """How full this process and its disks are."""

    def __init__(self, get_admission: Callable[[], Admission]) -> None:
        self._get_admission = get_admission

    def collect(self) -> Iterator[Metric]:
        try:
            found = self._get_admission()
        except KeyError:  # asked once when it is registered, before there is any
            return
        yield GaugeMetricFamily(
            "backtalk_requests_in_flight", "Requests read, waiting or worked on.", value=found.requests
        )
        free = GaugeMetricFamily(
            "backtalk_disk_free_bytes", "Room for images and versions.", labels=["folder"]
        )
        for folder, size in found.disks.free_bytes().items():
            free.add_metric([folder.name], size)
        yield free


class BrokerFigures:
    """Whether Redis answers, and how full it is."""

    def __init__(self, get_broker: Callable[[], Broker]) -> None:
        self._get_broker = get_broker

    def collect(self) -> Iterator[Metric]:
        try:
            seen = self._get_broker().look()
        except KeyError:  # asked once when it is registered, before there is any
            return
        yield GaugeMetricFamily("backtalk_redis_up", "1 while Redis answers.", value=float(seen.there))
        yield GaugeMetricFamily("backtalk_redis_used_bytes", "Towards its limit.", value=seen.used)
        yield GaugeMetricFamily(
            "backtalk_redis_limit_bytes", "Its maxmemory; 0 is none. At the limit it refuses messages.",
            value=seen.limit,
        )  # fmt: skip


class LiveFigures:
    """What this process serves."""

    def __init__(self, backend: Backend) -> None:
        self._live = backend.live
        self._first: dict[str, int] = {}
        self._turn = Lock()

    def collect(self) -> Iterator[Metric]:
        try:
            states = self._live.states()
        except Unavailable:
            states = []
        serving = GaugeMetricFamily("backtalk_serving_generation", "Generation in service.", labels=["model"])
        wanted = GaugeMetricFamily(
            "backtalk_wanted_generation", "Generation that should be.", labels=["model"]
        )
        version = GaugeMetricFamily("backtalk_serving_version", "Version in service.", labels=["model"])
        failing = GaugeMetricFamily(
            "backtalk_load_failing", "1 while the wanted version does not load.", labels=["model"]
        )
        swaps = CounterMetricFamily("backtalk_swaps", "Changes of the version in service.", labels=["model"])
        for state in states:
            serving.add_metric([state.model], state.generation)
            wanted.add_metric([state.model], state.wanted_generation)
            version.add_metric([state.model], state.version or 0)
            failing.add_metric([state.model], float(state.error is not None))
            swaps.add_metric([state.model], self._count_swaps(state.model, state.generation))
        yield from (serving, wanted, version, failing, swaps)

    def _count_swaps(self, model: str, generation: int) -> int:
        if generation == 0:  # nothing in service yet
            return 0
        with self._turn:
            first = self._first.setdefault(model, generation)
        return max(0, generation - first)


class LoopFigures:
    """What waits in the database: four counts over partial indexes."""

    def __init__(self, backend: Backend) -> None:
        self._database = backend.system.db

    def collect(self) -> Iterator[Metric]:
        up = GaugeMetricFamily("backtalk_database_up", "1 while the database answers.")
        try:
            with self._database.reading() as session:
                figures = [*self._count_outbox(session), *self._count_by_model(session)]
        except SQLAlchemyError:
            figures = []
        up.add_metric([], float(bool(figures)))
        yield up
        yield from figures

    def _count_outbox(self, session: Session) -> Iterator[Metric]:
        waiting, age_s = outbox.measure_backlog(session)
        yield GaugeMetricFamily("backtalk_outbox_events", "Events that wait for the relay.", value=waiting)
        yield GaugeMetricFamily(
            "backtalk_outbox_oldest_seconds", "Age of the oldest event that waits.", value=age_s
        )

    def _count_by_model(self, session: Session) -> Iterator[Metric]:
        items = GaugeMetricFamily(
            "backtalk_open_review_items", "Items that wait for a person.", labels=["model"]
        )
        runs = GaugeMetricFamily("backtalk_active_runs", "Runs under way.", labels=["model", "kind", "state"])
        open_items = (
            select(Model.name, func.count())
            .join(ReviewItem, ReviewItem.model_id == Model.id)
            .where(ReviewItem.closed_at.is_(None), counts_in(None))
            .group_by(Model.name)
        )
        active = (
            select(Model.name, Run.kind, Run.state, func.count())
            .join(Run, Run.model_id == Model.id)
            .where(Run.state.in_(ACTIVE_RUN_STATES))
            .group_by(Model.name, Run.kind, Run.state)
        )
        for name, number in session.execute(open_items):
            items.add_metric([name], number)
        for name, kind, state, number in session.execute(active):
            runs.add_metric([name, kind, state], number)
        yield items
        yield runs

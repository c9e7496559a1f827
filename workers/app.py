"""The Celery app. Messages are doorbells: every setting here limits how long a lost one goes unnoticed,
none of them carries correctness, which lies in the rows of Postgres.
"""

from typing import Any

from celery import Celery

from backtalk.config import Settings
from workers import log  # noqa: F401  # its signal must be connected before Celery sets up logging

EVENTS_QUEUE = "events"
TICKS_QUEUE = "ticks"
#: A message that no worker acknowledged for so long is delivered again (seconds).
VISIBILITY_TIMEOUT_S = 900
NIGHTLY_TICK_S = 20.0
RING_TICK_S = 5.0
SWEEP_TICK_S = 60.0
RETAIN_TICK_S = 600.0
SWEEP_IMAGES_TICK_S = 3600.0
INDEX_TICK_S = 600.0
DAYS_TICK_S = 3600.0
EXPERIMENTS_TICK_S = 20.0
LABELS_TICK_S = 300.0


def training_queue(kind: str) -> str:
    """Head runs have a queue and a worker of their own: seconds never wait behind hours."""
    return f"training-{kind}"


def make_app(
    settings: Settings, *, tasks: bool = False, transport_options: dict[str, Any] | None = None
) -> Celery:
    """Build the app; nothing is connected yet.

    Args:
        settings: of this process.
        tasks: whether this process runs tasks; whoever only sends them needs none of their imports.
        transport_options: go over the ones below.
    """
    app = Celery("backtalk", broker=settings.redis_url, include=["workers.tasks"] if tasks else [])
    app.conf.update(
        _messages() | _connection(transport_options or {}) | _shutdown(settings) | _beat(settings)
    )
    return app


def _messages() -> dict[str, Any]:
    return {
        "task_default_queue": EVENTS_QUEUE,
        # Postgres holds the truth; a result backend would be a second one.
        "task_ignore_result": True,
        # Whoever writes to Redis must not be able to make workers run code, as pickle would.
        "task_serializer": "json",
        "accept_content": ["json"],
        # Training may outlast the visibility timeout: acknowledged late, it would be delivered twice.
        # The lease and the sweeper repeat what is lost. Short tasks say acks_late themselves.
        "task_acks_late": False,
        # A task that kills its worker would come back for ever; attempts are counted in the row instead.
        "task_reject_on_worker_lost": False,
        # A message that waits in the memory of a busy worker cannot be taken by an idle one.
        "worker_disable_prefetch": True,
        "worker_prefetch_multiplier": 1,
        # No worker reads these, and each is a write to Redis.
        "worker_send_task_events": False,
        "task_send_sent_event": False,
    }


def _connection(transport_options: dict[str, Any]) -> dict[str, Any]:
    options = {
        # The shortest value of all apps on one broker wins, so it is set for all in this one place.
        "visibility_timeout": VISIBILITY_TIMEOUT_S,
        # Look for unacknowledged messages every 10 s; by default it takes 100 s.
        "unacked_restore_throttle": 1,
        # A half-open connection (the other end is gone and nobody said so) would hang for ever. A worker's
        # loop stands still meanwhile, more than once, so the wait is short: with 30 s it was deaf for 92 s.
        "socket_timeout": 5,
        "socket_connect_timeout": 5,
        "socket_keepalive": True,
        # So often a worker looks whether its reply to BRPOP, which is due each second, is overdue by as much.
        "health_check_interval": 10,
    }
    return {
        "broker_transport_options": options | transport_options,
        "result_backend_transport_options": {"visibility_timeout": VISIBILITY_TIMEOUT_S},
        # Redis may come later than the worker, and may be away for any time.
        "broker_connection_retry_on_startup": True,
        "broker_connection_max_retries": None,
        # A full Redis refuses even the note that a message was taken or done: bear it, rather than end.
        "broker_channel_error_retry": True,
        # After a lost connection the broker delivers unacknowledged tasks again: stop the first copy.
        "worker_cancel_long_running_tasks_on_connection_loss": True,
    }


def _shutdown(settings: Settings) -> dict[str, Any]:
    return {
        # With REMAP_SIGTERM=SIGQUIT in the environment, SIGTERM means: finish within this time. Then the
        # pool is ended; the row's lease runs out and the sweeper rings again. Without, it waits for ever.
        "worker_soft_shutdown_timeout": settings.worker_grace_s,
        # With nothing running there is nothing to wait for: no task has an ETA beyond seconds.
        "worker_enable_soft_shutdown_on_idle": False,
    }


def _beat(settings: Settings) -> dict[str, Any]:
    def tick(task: str, every_s: float, queue: str = TICKS_QUEUE) -> dict[str, Any]:
        # In a queue of their own, they wait behind no backlog of events, and can be counted.
        return {"task": task, "schedule": every_s, "options": {"queue": queue}}

    # Where MLflow is off, nobody is even asked.
    experiments = {"experiments": tick("experiments.tell", EXPERIMENTS_TICK_S)} if settings.mlflow else {}
    return {
        # Two beats, a clock that jumps, a file that a kill left corrupt: see there.
        "beat_scheduler": "workers.ticking:Ticking",
        "beat_schedule": {
            "nightly": tick("triggers.nightly", NIGHTLY_TICK_S),
            "ring": tick("upkeep.ring", RING_TICK_S),
            "sweep": tick("upkeep.sweep", SWEEP_TICK_S),
            "retain_images": tick("upkeep.retain_images", RETAIN_TICK_S),
            "sweep_images": tick("upkeep.sweep_images", SWEEP_IMAGES_TICK_S),
            # What it needs is installed where heads are fitted.
            "labels": tick("review.check_labels", LABELS_TICK_S, training_queue("head")),
            "index": tick("upkeep.index", INDEX_TICK_S),
            "days": tick("upkeep.keep_days", DAYS_TICK_S),
        }
        | experiments,
    }


app = make_app(Settings.load(), tasks=True)

"""What runs after an event: each task re-reads the row that its id names, and returns early where there is
nothing to do. The names are those of `backtalk/reactions.py`.
"""

from typing import Any

from celery import shared_task
from sqlalchemy.exc import OperationalError
from sqlalchemy.exc import TimeoutError as PoolTimeout

from backtalk import devicefiles, doorbells, promotion, review, suspects, sweeper, training, triggers, upkeep
from backtalk.errors import Unavailable
from workers.process import get_experiments, get_system, get_trainers, is_stopping, training_a_run

#: Short and idempotent: acknowledged when done, so a killed worker's task is delivered again.
EVENT: dict[str, Any] = {
    "acks_late": True,
    "time_limit": 280,  # below a third of the visibility timeout
    "soft_time_limit": 240,
    # Postgres restarted, or was slow: again soon. What is lost even so is rung for by the sweeper.
    "autoretry_for": (OperationalError, PoolTimeout, Unavailable),
    "max_retries": 6,
    "retry_backoff": 1,
    "retry_backoff_max": 30,
}

#: Beat sends the next one soon: what fails or is lost is not repeated.
TICK: dict[str, Any] = {"acks_late": False, "time_limit": 280, "soft_time_limit": 240}


@shared_task(name="review.prepare", **EVENT)
def prepare(prediction_id: str) -> None:
    with get_system().db.transaction() as session:
        review.prepare_prediction(session, prediction_id)


@shared_task(name="triggers.consider", **EVENT)
def consider(model_id: int) -> None:
    with get_system().db.transaction() as session:
        triggers.consider_model(session, model_id)


@shared_task(name="triggers.nightly", **TICK)
def nightly() -> None:
    with get_system().db.transaction() as session:
        triggers.announce_nightly(session)


@shared_task(name="training.train")
def train(run_id: str) -> None:
    with training_a_run():
        training.train_run(get_system(), get_trainers(), run_id, is_stopping)


@shared_task(name="promotion.judge", **EVENT)
def judge(run_id: str) -> None:
    promotion.judge_run(get_system(), run_id)


@shared_task(name="promotion.promote", **EVENT)
def promote(run_id: str) -> None:
    promotion.promote_run(get_system(), run_id)


@shared_task(name="promotion.promote_asked", **EVENT)
def promote_asked(model_id: int) -> None:
    promotion.promote_asked(get_system(), model_id)


@shared_task(name="devices.make_file")
def make_file(device_file_id: int) -> None:
    devicefiles.make_file(get_system(), device_file_id, is_stopping)


@shared_task(name="upkeep.prune_versions", **EVENT)
def prune_versions(model_id: int) -> None:
    upkeep.mend_models_config(get_system())
    upkeep.prune_versions(get_system(), model_id)


@shared_task(name="upkeep.ring", **TICK)
def ring_again() -> None:
    system = get_system()
    with system.db.transaction() as session:
        doorbells.ring_unprepared(session)
        sweeper.sweep_runs(session, system.settings)
    promotion.promote_asked(system)


@shared_task(name="upkeep.retain_images", **TICK)
def retain_images() -> None:
    upkeep.retain_images(get_system())


@shared_task(name="upkeep.sweep_images", **TICK)
def sweep_images() -> None:
    upkeep.sweep_images(get_system())


@shared_task(name="upkeep.sweep", **TICK)
def sweep() -> None:
    upkeep.sweep(get_system())


@shared_task(name="review.check_labels", **TICK)
def check_labels() -> None:
    """One model at a time: the next tick comes to the others."""
    system = get_system()
    with system.db.reading() as session:
        due = suspects.list_due(session)
    if due:
        suspects.check_labels(system, due[0])


@shared_task(name="upkeep.index", **TICK)
def index_embeddings() -> None:
    upkeep.index_embeddings(get_system())


@shared_task(name="upkeep.keep_days", **TICK)
def keep_days() -> None:
    upkeep.keep_days(get_system())


@shared_task(name="experiments.tell", **TICK)
def tell_experiments() -> None:
    get_experiments().tell()

"""What worker processes say: our own lines at the level of the settings, libraries only when worried."""

import logging
from typing import Any

from celery.signals import setup_logging

from backtalk.config import Settings

_LIBRARIES = ("alembic", "amqp", "celery", "kombu", "sqlalchemy")


def configure(level: str) -> None:
    """One line each, to stderr; whoever collects them adds time and name of the process."""
    logging.basicConfig(level=level, format="%(levelname)s %(name)s: %(message)s")
    for name in _LIBRARIES:
        logging.getLogger(name).setLevel(logging.WARNING)


@setup_logging.connect
def _instead_of_celery(**_: Any) -> None:
    """Connected, this keeps Celery from setting up its own."""
    configure(Settings.load().log_level)

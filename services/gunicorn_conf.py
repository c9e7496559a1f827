"""Gunicorn: one process per machine, many threads. LiteRT releases the GIL, and one process holds the
backbone once. Run as `gunicorn -c services/gunicorn_conf.py` (or `-c python:services.gunicorn_conf`).
"""

from pathlib import Path
from typing import Any

from backtalk.config import Settings

_settings = Settings.load()

wsgi_app = "services.wsgi:create_app()"
bind = f"{_settings.api_host}:{_settings.api_port}"
worker_class = "gthread"
workers = 1
threads = _settings.api_threads
# Interpreters and threads are made after the fork; they do not survive one.
preload_app = False

# A draining worker must not be taken for a hung one: never shorter than graceful_timeout.
timeout = 60
graceful_timeout = 30
keepalive = 15

# The heartbeat file on a disk that stalls would get the worker killed.
worker_tmp_dir = "/dev/shm" if Path("/dev/shm").is_dir() else None  # noqa: S108  # no secret is written there
# Nobody commands a running server here, and the default is one socket for all servers of a user.
control_socket_disable = True

loglevel = _settings.log_level.lower()
logconfig_dict = {
    "version": 1,
    "disable_existing_loggers": False,
    "formatters": {"line": {"format": "%(levelname)s %(message)s"}},
    "handlers": {"stderr": {"class": "logging.StreamHandler", "formatter": "line"}},
    "root": {"level": _settings.log_level, "handlers": ["stderr"]},
    "loggers": {
        "alembic": {"level": "WARNING"},
        "gunicorn.error": {"level": _settings.log_level, "handlers": ["stderr"], "propagate": False},
        "gunicorn.access": {"level": "WARNING", "handlers": ["stderr"], "propagate": False},
    },
}


def worker_exit(_server: Any, worker: Any) -> None:
    """Let go of connections and poll threads before the process ends."""
    app = getattr(worker, "wsgi", None)  # missing where the app could not be loaded
    backend = app.extensions.get("backtalk") if app is not None else None
    if backend is not None:
        backend.live.close()
        backend.system.close()

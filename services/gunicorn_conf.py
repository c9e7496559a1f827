"""Gunicorn: one process per machine, many threads. LiteRT releases the GIL, and one process holds the
backbone once. Run as `gunicorn -c services/gunicorn_conf.py` (or `-c python:services.gunicorn_conf`).

`tests/integration/test_gunicorn.py` holds these settings against each other.
"""

import math
from pathlib import Path
from typing import Any

from backtalk.config import Settings
from services.tls import Contexts

SPARE_THREADS = 8

_settings = Settings.load()

wsgi_app = "services.wsgi:create_app()"
bind = f"{_settings.api_host}:{_settings.api_port}"
worker_class = "services.server.Worker"
workers = 1
# A thread for each request that is let in, and some to refuse others and to answer who watches the service.
threads = _settings.max_in_flight + SPARE_THREADS
# More connections than threads: idle ones wait in the poller.
worker_connections = threads + 1000
# Interpreters and threads are made after the fork; they do not survive one.
preload_app = False

# A draining worker must not be taken for a hung one: never shorter than graceful_timeout.
graceful_timeout = math.ceil(_settings.api_grace_s)
timeout = graceful_timeout + 20
keepalive = 15
# Tighter than what proxies in front use, and room for a key, cookies and a long cursor.
limit_request_line = 4094
limit_request_fields = 64
limit_request_field_size = 8190

# The heartbeat file on a disk that stalls would get the worker killed.
worker_tmp_dir = "/dev/shm" if Path("/dev/shm").is_dir() else None  # noqa: S108  # no secret is written there
# Nobody commands a running server here, and the default is one socket for all servers of a user.
control_socket_disable = True

# What a proxy says of the caller is believed or not in one place: services/proxies.py.
forwarded_allow_ips = ""

if _settings.tls_cert is not None and _settings.tls_key is not None:
    certfile, keyfile = str(_settings.tls_cert), str(_settings.tls_key)
    _contexts = Contexts(_settings.tls_cert, _settings.tls_key)

    def ssl_context(_conf: Any, _default: Any) -> Any:
        """Asked for with each connection."""
        return _contexts.get()


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

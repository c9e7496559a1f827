"""The app that gunicorn serves: API and pages over one backend. `gunicorn "services.wsgi:create_app()"`."""

import logging

from flask import Flask

from backtalk import bootstrap
from backtalk.config import Settings
from backtalk.outage import Outage
from backtalk.serving import LiveModels
from backtalk.store import VersionStore
from backtalk.system import System
from services.api.app import make_app
from services.backend import Backend
from services.proxies import TrustedProxies
from services.review import blueprint as pages

#: A caller hears within 3 s that the database is away: half a second to find a resting connection dead and
#: two to make another, or this long for a statement that gets no answer.
ANSWER_TIMEOUT_S = 2.5
STATEMENT_TIMEOUT_S = 2.0
LOCK_TIMEOUT_S = 1.5
POOL_WAIT_S = 0.5


_log = logging.getLogger(__name__)


def create_app(*, system: System | None = None, live: LiveModels | None = None) -> Flask:
    """Join everything. Without arguments, as a worker process does: from the environment, and polling.

    gunicorn must not preload it: the thread that polls for versions lives only in the process that made it.

    Args:
        system: use this one, and leave closing it to the caller.
        live: likewise; else one is made, started if the system was built here.

    Raises:
        ValueError: a setting is missing or bad.
    """
    own = system is None
    if system is None:
        settings = Settings.load()
        system = bootstrap.build(
            settings,
            outage=Outage(),
            pool_size=settings.api_threads + 2,  # one for the poll, one to spare
            pool_wait_s=POOL_WAIT_S,
            statement_timeout_s=STATEMENT_TIMEOUT_S,
            lock_timeout_s=LOCK_TIMEOUT_S,
            answer_timeout_s=ANSWER_TIMEOUT_S,
        )
    if live is None:
        live = LiveModels(system)
        if own:
            live.start()
    _say_who_writes(system.versions)
    app = make_app(Backend(system, live))
    app.register_blueprint(pages)
    networks = system.settings.trusted_networks
    if networks:
        app.wsgi_app = TrustedProxies(app.wsgi_app, networks)  # type: ignore[method-assign]
    return app


def _say_who_writes(versions: VersionStore) -> None:
    if versions.readonly and versions.could_write():
        _log.warning(
            "BACKTALK_STORE_READONLY is set, and yet this process could write %s: mount it read-only, or run "
            "the API as another user (docs/security.md)",
            versions.root,
        )
    elif not versions.may_write():
        _log.info("the store is read-only here: a worker publishes what is promoted by hand")

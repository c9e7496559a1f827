"""What API and pages share: the joined parts and the models in service, at `app.extensions["backtalk"]`."""

from dataclasses import dataclass
from typing import cast

from flask import current_app

from backtalk.serving import LiveModels
from backtalk.system import System

EXTENSION = "backtalk"


@dataclass(frozen=True)
class Backend:
    """One per process."""

    system: System
    live: LiveModels


def get_backend() -> Backend:
    """The backend of the app that answers this request."""
    return cast(Backend, current_app.extensions[EXTENSION])

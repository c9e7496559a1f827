"""The app of beat, which sends ticks by name and imports no task. `celery -A workers.beat beat`."""

from backtalk.config import Settings
from workers.app import make_app

app = make_app(Settings.load())

"""Where a run's TensorBoard logs lie. The trainer writes them; `backtalk tensorboard` shows them."""

import shutil
from datetime import datetime
from pathlib import Path
from urllib.parse import quote
from uuid import UUID

from backtalk.system import System

KEPT = 100  # of the newest runs of a model


def name_board(model: str, kind: str, run_id: UUID, created_at: datetime) -> str:
    """Relative to the folder of all logs; sorted by name they are sorted by time."""
    return f"{model}/{created_at:%Y%m%d-%H%M%S}-{kind}-{run_id.hex[-6:]}"


def find_board(system: System, name: str) -> Path | None:
    """The folder to write to; none where TensorBoard is switched off."""
    return system.settings.boards_path / name if system.settings.tensorboard else None


def link_board(system: System, name: str) -> str | None:
    """The page that shows this run alone, while `backtalk tensorboard` runs; none where it is off."""
    base = system.settings.tensorboard_url.rstrip("/")
    return f"{base}/?runFilter={quote(name, safe='')}#timeseries" if system.settings.tensorboard else None


def prune_boards(system: System) -> None:
    """Remove the logs of all but the newest runs of each model."""
    for model in system.settings.boards_path.glob("*"):
        for old in sorted(path for path in model.glob("*") if path.is_dir())[:-KEPT]:
            shutil.rmtree(old, ignore_errors=True)

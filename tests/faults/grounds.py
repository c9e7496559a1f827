"""What a rig stands on: databases and folders, made once a session and copied for each test."""

import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from itertools import count
from pathlib import Path

from sqlalchemy import select

from backtalk import bootstrap, schema
from backtalk.config import Settings
from backtalk.ledger import append_entry
from backtalk.system import System
from backtalk.tables import Model, Version
from tests.acceptance.digits import Digits
from tests.faults.servers import Servers
from tests.served import make_served_model

_FOLDERS = ("models_store", "images")
#: Digits 0 to 199 are the base; tests take later ones, so that no picture was seen before.
BASE_DIGITS = 200


class Grounds:
    """Templates by name: `empty`, `served`, `digits`. Each is made when it is first asked for."""

    def __init__(self, servers: Servers, folder: Path, find_backbone: Callable[[], Path]) -> None:
        self._servers = servers
        self._folder = folder
        self._find_backbone = find_backbone  # the tiny backbone's folder; costs a trainer
        self._made: set[str] = set()
        self._numbers = count(1)

    def copy(self, template: str, folder: Path) -> str:
        """A fresh database and folders like the template; returns the database's address."""
        if template not in self._made:
            getattr(self, f"_make_{template}")(self._folder / template)
            self._made.add(template)
        name = f"rig_{next(self._numbers)}"
        # By the default strategy a copy's sequences may go back when the server crashes: they keep the
        # template's allowance of numbers that need no entry in the log, and the log knows only the copy.
        self._servers.postgres.run(f"CREATE DATABASE {name} TEMPLATE template_{template} STRATEGY file_copy")
        for sub in _FOLDERS:
            source = self._folder / template / sub
            if source.exists():
                shutil.copytree(source, folder / sub, copy_function=shutil.copy2)
        return self._servers.postgres.url(name)

    def _database(self, template: str) -> str:
        self._servers.postgres.run(f"CREATE DATABASE template_{template}")
        url = self._servers.postgres.url(f"template_{template}")
        schema.upgrade(url)
        return url

    def _make_empty(self, _home: Path) -> None:
        self._database("empty")

    def _make_served(self, home: Path) -> None:
        """`animals`: two versions with random heads; the ledger says that the first was created."""
        settings = Settings(home=home, database_url=self._database("served"))
        system = bootstrap.build(settings)
        make_served_model(system, self._find_backbone(), versions=2)
        _chain_first(system)
        system.close()

    def _make_digits(self, home: Path) -> None:
        """`digits`: by the command line, with a real trainer. Corrections are approved at once."""
        images = Digits().write_folder(BASE_DIGITS, home / "base")
        env = {name: value for name, value in os.environ.items() if not name.startswith("BACKTALK_")}
        env |= {"BACKTALK_HOME": str(home), "BACKTALK_DATABASE_URL": self._database("digits")}
        words = ["models", "create", "digits", "--from", str(images), "--backbone", "tiny"]
        policy = ["review=auto", "audit_share=0", "debounce_s=0", "cooldown_s=0", "nightly=null"]
        for command in (
            words,
            ["policy", "set", "digits", *policy, "min_approved=1000", "max_runs_per_day=1000"],
        ):
            done = subprocess.run(
                [sys.executable, "-m", "backtalk.cli", *command],
                env=env,
                capture_output=True,
                text=True,
                check=False,
            )
            assert done.returncode == 0, done.stdout + done.stderr


def _chain_first(system: System) -> None:
    with system.db.transaction() as session:
        model = session.scalars(select(Model)).one()
        version = session.scalars(select(Version).where(Version.number == 1)).one()
        version.anchored_at = version.created_at
        append_entry(
            session,
            model_id=model.id,
            seq=1,
            action="create",
            version=1,
            previous_version=None,
            run_id=None,
            actor="user:alice",
            artefact_digest=version.artefact_digest,
            detail={},
        )
    system.versions.write_models_config({model.name: 1})

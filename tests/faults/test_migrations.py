"""A newer release migrates the database while the older one serves; the migration is killed half-way."""

import shutil
import subprocess
import sys
import time
from pathlib import Path

import httpx
import psycopg
import pytest

from backtalk import schema
from backtalk.db import get_plain_url
from tests.faults.load import count_rows, under_load
from tests.faults.rig import ROOT, Part, Rig

#: What the next releases might do. The code that serves here knows none of them.
NEXT = {
    "9001": (True, ["ALTER TABLE corrections ADD COLUMN colour text",
                    "CREATE TABLE colours (id bigint PRIMARY KEY)", "SELECT pg_sleep(0.5)",
                    "ALTER TABLE predictions ADD COLUMN colour text NOT NULL DEFAULT 'blue'"]),
    "9002": (True, ["CREATE TABLE shades (id bigint PRIMARY KEY)", "SELECT pg_sleep(:pause)"]),
    "9003": (False, ["ALTER TABLE corrections RENAME COLUMN note TO remark"]),
}  # fmt: skip

MIGRATION = """
import sqlalchemy as sa
from alembic import op
revision, down_revision = {revision!r}, {before!r}
{expand}

def upgrade():
    for statement in {statements!r}:
        op.execute(sa.text(statement))
"""

UPGRADE = """
import sys
from alembic import command
from backtalk import schema
config = schema.configuration(sys.argv[1])
config.set_main_option("script_location", sys.argv[2])
command.upgrade(config, sys.argv[3])
"""


def write_next(folder: Path, pause: float = 0.0) -> Path:
    """The migrations of a later release."""
    shutil.copytree(ROOT / "migrations", folder, ignore=shutil.ignore_patterns("__pycache__"))
    before = schema.newest_revision()
    for revision, (adds, statements) in NEXT.items():
        words = MIGRATION.format(
            revision=revision, before=before, expand="expand = True" if adds else "",
            statements=[statement.replace(":pause", str(pause)) for statement in statements],
        )  # fmt: skip
        (folder / "versions" / f"{revision}_change_something.py").write_text(words)
        before = revision
    return folder


def migrate(rig: Rig, folder: Path, revision: str) -> Part:
    """As the later release's own process does it."""
    command = [sys.executable, "-c", UPGRADE, rig.database_url, str(folder), revision]
    return rig.start_part("api", f"migrate-{revision}", command=command)


def find_revision(rig: Rig) -> str | None:
    with rig.system.db.reading() as session:
        return schema.find_revision(session)


def ask_command_line(rig: Rig) -> "subprocess.CompletedProcess[str]":
    command = [sys.executable, "-m", "backtalk.cli", "models", "list"]
    return subprocess.run(command, env=rig.environment(), capture_output=True, text=True, check=False)


@pytest.mark.slow
@pytest.mark.fault(row=29, tries=3)
def test_old_code_goes_on_serving_while_and_after_the_schema_gets_more(rig: Rig, tmp_path: Path) -> None:
    folder = write_next(tmp_path / "migrations")
    rig.use("served").start_all("api", "relay", "beat", "events")
    pids = {name: part.pid for name, part in rig.parts.items()}
    with under_load(rig) as load:
        rig.wait_for(lambda: load.done >= 5)
        assert migrate(rig, folder, "9001").wait() == 0
        reached = load.done + 10
        rig.wait_for(lambda: load.done >= reached)
        assert rig.is_ready()
    assert find_revision(rig) == "9001"
    # One that waited behind the migration's lock longer than it may is told to come again, and did.
    assert {operation.status for operation in rig.history if not operation.acknowledged} <= {503}
    assert {name: rig[name].pid for name in pids if rig[name].alive} == pids
    rig.start("api")  # an old replica that starts anew comes up too
    assert ask_command_line(rig).returncode == 0
    rig.settle()
    assert rig.check() == {}
    # What takes something away says so: the old code stands back, and says why.
    assert migrate(rig, folder, "9003").wait() == 0
    refused = httpx.get(f"{rig.address}/readyz")
    assert refused.status_code == 503
    assert "at migration 9003 and needs code of 9003" in refused.text
    told = ask_command_line(rig)
    assert told.returncode != 0
    assert "needs code of 9003" in told.stderr
    assert "Traceback" not in told.stderr


@pytest.mark.slow
@pytest.mark.fault(row=29, tries=1)
def test_a_migration_that_is_killed_half_way_left_nothing_and_the_next_one_succeeds(
    rig: Rig, tmp_path: Path
) -> None:
    rig.use("served").start("api")
    killed = migrate(rig, write_next(tmp_path / "slow", pause=600), "9002")
    rig.wait_for(lambda: is_sleeping(rig))
    assert find_revision(rig) == "9001"  # a transaction each: the first one's is committed
    killed.kill()
    assert rig.is_ready()
    began = time.monotonic()
    again = migrate(rig, write_next(tmp_path / "migrations"), "9002")
    assert again.wait() == 0, again.said()
    assert time.monotonic() - began < 60  # it does not wait for what the killed one was doing
    assert find_revision(rig) == "9002"
    assert count_rows(rig, "SELECT count(*) FROM shades") == 0
    assert rig.is_ready()
    assert rig.check() == {}


def is_sleeping(rig: Rig) -> bool:
    with psycopg.connect(get_plain_url(rig.database_url)) as connection:
        query = "SELECT count(*) FROM pg_stat_activity WHERE wait_event = 'PgSleep' AND query LIKE '%600%'"
        return connection.execute(query).fetchone() != (0,)

"""The table of a whole run: what was never attacked fails it."""

import subprocess
import sys
from pathlib import Path

import pytest

from backtalk.failpoints import FAILPOINTS
from tests.faults.rig import ROOT

ONE = """
import pytest
from backtalk.failpoints import FAILPOINTS

@pytest.mark.fault(row=5)
def test_one(request):
    request.node.user_properties.append(("hits", sorted(FAILPOINTS)[{first}:]))
"""


@pytest.mark.parametrize(
    ("first", "words", "status", "said"),
    [
        (0, [], 0, f"{len(FAILPOINTS)} of {len(FAILPOINTS)} failpoints hit\n"),
        (2, [], 1, f"{len(FAILPOINTS) - 2} of {len(FAILPOINTS)} failpoints hit; not: checkpoint."),
        (2, ["-k", "one"], 0, "1 of 30 rows held"),
        (2, ["-n", "1"], 1, f"{len(FAILPOINTS) - 2} of {len(FAILPOINTS)} failpoints hit; not: checkpoint."),
    ],
)
def test_a_run_over_the_whole_matrix_fails_where_a_failpoint_was_never_hit(
    tmp_path: Path, first: int, words: list[str], status: int, said: str
) -> None:
    (tmp_path / "tests").mkdir()
    (tmp_path / "tests" / "test_one.py").write_text(ONE.format(first=first))
    (tmp_path / "pytest.ini").write_text("[pytest]\n")
    command = [sys.executable, "-m", "pytest", "-p", "tests.faults.table", "tests"]
    done = subprocess.run(
        [*command, "--fault-table", "table.json", *words],
        cwd=tmp_path, env={"PYTHONPATH": str(ROOT)}, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == status, done.stdout + done.stderr
    assert said in done.stdout

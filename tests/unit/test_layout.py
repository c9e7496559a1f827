"""House rules that no linter knows: sizes, names, and who commits."""

import ast
import re
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PACKAGES = ("backtalk", "services", "workers")
SOURCES = sorted(path for package in PACKAGES for path in (ROOT / package).rglob("*.py"))
MAX_FUNCTION_LINES = 40
MAX_FILE_LINES = 300
#: Longer by nature, each for its reason.
LONG_FILES = {
    "backtalk/client.py",  # one file to copy into an app
    "backtalk/tables.py",  # one list of columns; split, its foreign keys would point all over the place
}
FORBIDDEN_NAMES = re.compile(r"(^|_)(utils?|helpers?|managers?|base|common|misc)(_|\.|$)")


def _relative(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


@pytest.mark.parametrize("path", SOURCES, ids=_relative)
def test_files_and_functions_stay_short(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    assert _relative(path) in LONG_FILES or len(text.splitlines()) <= MAX_FILE_LINES
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            assert _count_lines(node) <= MAX_FUNCTION_LINES, node.name


def _count_lines(function: ast.FunctionDef | ast.AsyncFunctionDef) -> int:
    """Without the signature and the docstring: neither is something to follow while reading."""
    body = function.body[1:] if ast.get_docstring(function) and len(function.body) > 1 else function.body
    return (function.end_lineno or 0) - body[0].lineno + 1


def test_modules_are_named_after_what_they_are_about() -> None:
    assert [p for p in map(_relative, SOURCES) if FORBIDDEN_NAMES.search(Path(p).stem)] == []


def test_only_db_commits() -> None:
    committing = [_relative(p) for p in SOURCES if ".commit(" in p.read_text(encoding="utf-8")]
    assert committing == ["backtalk/db.py"]


def test_every_package_is_in_the_wheel() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    listed = set(project["tool"]["setuptools"]["packages"])
    found = {
        _relative(path.parent).replace("/", ".")
        for package in (*PACKAGES, "configs", "demo", "migrations")
        for path in (ROOT / package).rglob("__init__.py")
    }
    assert listed == found


def test_whatever_else_the_wheel_is_to_bring_along_is_there() -> None:
    setuptools = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["tool"]["setuptools"]
    folders = [ROOT / package.replace(".", "/") for package in setuptools["packages"]]
    for pattern in setuptools["package-data"]["*"]:
        assert any(any(folder.glob(pattern)) for folder in folders), pattern
    assert (ROOT / "backtalk" / "py.typed").is_file()  # type checkers read the client's annotations


def test_locked_dependencies_name_no_place_to_download_from() -> None:
    for lock in (ROOT / "requirements").glob("*.txt"):
        text = lock.read_text(encoding="utf-8")
        assert "://" not in text
        assert text.count("--hash=sha256:") > 100

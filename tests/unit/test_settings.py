"""Settings are documented, read from files, and refused where they are bad."""

import re
from pathlib import Path

import pytest
from pydantic_core import PydanticUndefined

from backtalk.config import PREFIX, Settings

DOCUMENT = Path(__file__).parents[2] / "docs" / "settings.md"
ROWS = dict(
    re.findall(r"^\| `(BACKTALK_[A-Z_]+)` \| ([^|]+?) \|", DOCUMENT.read_text(encoding="utf-8"), re.MULTILINE)
)
NAMES = [PREFIX + field.upper() for field in Settings.model_fields]


def test_every_setting_is_documented_and_nothing_else() -> None:
    assert sorted(ROWS) == sorted(NAMES)


@pytest.mark.parametrize("field", Settings.model_fields)
def test_documented_defaults_are_the_real_ones(field: str) -> None:
    default = Settings.model_fields[field].default
    if default is None or default is PydanticUndefined:
        return
    written = str(default).lower() if isinstance(default, bool) else str(default)
    assert ROWS[PREFIX + field.upper()] == f"`{written}`"


def test_a_secret_may_come_from_a_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    secret = tmp_path / "url"
    secret.write_text("postgresql://me:secret@db/backtalk\n")
    monkeypatch.setenv("BACKTALK_DATABASE_URL_FILE", str(secret))
    assert Settings.load().database_url == "postgresql+psycopg://me:secret@db/backtalk"


def test_a_secret_s_missing_file_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BACKTALK_REDIS_URL_FILE", "/nowhere/url")
    with pytest.raises(ValueError, match="BACKTALK_REDIS_URL_FILE: cannot read /nowhere/url"):
        Settings.load()


def test_an_unknown_setting_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BACKTALK_API_PROT", "8000")
    with pytest.raises(ValueError, match="BACKTALK_API_PROT"):
        Settings.load()


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("BACKTALK_API_PORT", "70000"),
        ("BACKTALK_LOG_LEVEL", "LOUD"),
        ("BACKTALK_DATABASE_URL", "mysql://db"),
        ("BACKTALK_LEASE_S", "soon"),
    ],
)
def test_a_bad_value_is_refused_by_the_variable_s_name(
    monkeypatch: pytest.MonkeyPatch, name: str, value: str
) -> None:
    monkeypatch.setenv(name, value)
    with pytest.raises(ValueError, match=name):
        Settings.load()


def test_an_argument_goes_before_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BACKTALK_API_PORT", "1234")
    assert Settings.load(api_port=4321).api_port == 4321

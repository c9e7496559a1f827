"""The language of the pages: which one a browser is answered in, and its messages, dates and numbers."""

from collections.abc import Iterable
from datetime import UTC, datetime
from functools import cache
from io import BytesIO
from pathlib import Path
from typing import Any

from babel.dates import format_datetime
from babel.messages.mofile import write_mo
from babel.messages.pofile import read_po
from babel.numbers import format_decimal, format_percent
from babel.support import Translations
from flask import g, has_request_context, request

#: By their tags (BCP 47), each by its own name. English is what the sentences are written in.
LANGUAGES = {"en": "English", "zh-Hans": "简体中文"}
DEFAULT = "en"
COOKIE = "backtalk-language"
CATALOGUES = Path(__file__).parent / "locale"


def choose_language() -> str:
    """The language of this request: the one chosen with the switch, else the browser's; once per request."""
    if not has_request_context():
        return DEFAULT
    if "language" not in g:
        chosen = request.cookies.get(COOKIE, "")
        g.language = chosen if chosen in LANGUAGES else _negotiate()
    return str(g.language)


def _negotiate() -> str:
    """Any English and any Chinese will do: who reads traditional characters reads these before English."""
    by_family = {tag.split("-")[0]: tag for tag in LANGUAGES}
    for wanted in request.accept_languages.values():
        family = wanted.lower().split("-")[0]
        if family in by_family:
            return by_family[family]
    return DEFAULT


@cache
def load_messages(language: str) -> Translations:
    """The catalogue of a language, read from its text file: nothing is to be compiled beforehand."""
    path = CATALOGUES / language.replace("-", "_") / "LC_MESSAGES" / "messages.po"
    if not path.is_file():
        return Translations()
    compiled = BytesIO()
    with path.open("rb") as file:
        write_mo(compiled, read_po(file, locale=language.replace("-", "_")))
    compiled.seek(0)
    return Translations(compiled)


def mark(message: str) -> str:
    """A message that is translated later, where it is said: `make messages` finds it by this call."""
    return message


def find_message(message: str) -> str:
    """The message in the language of this request, not filled in."""
    return load_messages(choose_language()).gettext(message) if message else ""


def find_plural(one: str, many: str, n: int) -> str:
    """As `find_message`, of the form that `n` things take."""
    return load_messages(choose_language()).ngettext(one, many, n)


def translate(message: str, **values: object) -> str:
    """The message in the language of this request, its `%(name)s` filled in."""
    said = find_message(message)
    return said % values if values else said


def translate_many(one: str, many: str, n: int, **values: object) -> str:
    """As `translate`, for a sentence about `n` things; `%(n)s` is their number."""
    return find_plural(one, many, n) % ({"n": write_number(n)} | values)


def join_sentences(sentences: Iterable[str]) -> str:
    """One after the other, as the language sets them; empty ones are left out."""
    said = ""
    for sentence in filter(None, sentences):
        said = translate("%(before)s %(after)s", before=said, after=sentence) if said else sentence
    return said


def translate_all(messages: Any) -> Any:
    """Every marked sentence of a nested dictionary."""
    if isinstance(messages, dict):
        return {name: translate_all(value) for name, value in messages.items()}
    return translate(messages)


# --- numbers and times -------------------------------------------------------------------------
def write_number(number: float) -> str:
    """`12 345`, with a thin space where others have a comma."""
    return format_decimal(number, locale=_locale()).replace(",", "\u202f")


def write_share(share: float) -> str:
    """`12.3 %`"""
    return format_percent(share, "0.0 %", locale=_locale())


def write_time(at: datetime, pattern: str) -> str:
    """A time in UTC by a pattern of the CLDR, itself a message."""
    return format_datetime(at, translate(pattern), tzinfo=UTC, locale=_locale())


def _locale() -> str:
    return choose_language().replace("-", "_")

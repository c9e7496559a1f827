"""The message catalogues of the pages: every sentence of templates, modules and their tables of words.

python -m scripts.messages            # take what is new into each catalogue, and out what is gone
python -m scripts.messages --check    # change nothing; say what is missing, stale, or filled in otherwise
"""

import argparse
import re
import sys
from collections.abc import Iterator
from io import BytesIO
from pathlib import Path

from babel.messages import extract
from babel.messages.catalog import Catalog, Message
from babel.messages.pofile import read_po, write_po
from jinja2.ext import babel_extract

from backtalk.policy import Policy
from services.review import evidence_words, gate_table, policy_form, review_words, words
from services.review.language import CATALOGUES, DEFAULT, LANGUAGES

PAGES = CATALOGUES.parent
ROOT = PAGES.parent.parent
KEYWORDS = {"_": None, "mark": None, "gettext": None, "translate": None, "translate_many": (1, 2)}
#: Modules whose dictionaries and tables in capitals hold sentences as they are.
TABLES = (words, evidence_words, review_words, gate_table, policy_form)
HEADER = """\
# Backtalk's pages. `make messages` takes new sentences in; every msgstr is written by hand.
msgid ""
msgstr ""
"Language: {locale}\\n"
"MIME-Version: 1.0\\n"
"Content-Type: text/plain; charset=utf-8\\n"
"Content-Transfer-Encoding: 8bit\\n"
"Plural-Forms: {plurals}\\n"

"""
Id = str | tuple[str, ...]


# --- what there is to say ----------------------------------------------------------------------
def list_messages() -> dict[Id, set[str]]:
    """Each message, with the files that say it."""
    found: dict[Id, set[str]] = {}
    for path, message in [*_read_modules(), *_read_templates(), *_read_tables(), *_read_policy()]:
        if message:
            found.setdefault(message, set()).add(path.relative_to(ROOT).as_posix())
    return found


def _read_modules() -> Iterator[tuple[Path, Id]]:
    for path in sorted(PAGES.glob("*.py")):
        with path.open("rb") as file:
            for _, message, *_ in extract.extract("python", file, keywords=KEYWORDS):
                yield path, message


def _read_templates() -> Iterator[tuple[Path, Id]]:
    options = {"newstyle_gettext": "true", "silent": "false"}
    for path in sorted(PAGES.glob("templates/**/*.html")):
        with path.open("rb") as file:
            for _, _, message, _ in babel_extract(file, ["_", "gettext"], [], options):
                # A tuple where there are values to fill in; nothing where a variable holds the message.
                said = [message] if isinstance(message, str) else [one for one in message or () if one]
                yield path, said[0] if said else ""


def _read_tables() -> Iterator[tuple[Path, Id]]:
    for module in TABLES:
        for name, value in vars(module).items():
            if name.isupper() and not name.startswith("_") and isinstance(value, dict | tuple):
                for message in _flatten(value):
                    yield Path(str(module.__file__)), message


def _flatten(table: object) -> Iterator[str]:
    """Values of dictionaries, second members of pairs, texts and titles of rows."""
    if isinstance(table, dict):
        for value in table.values():
            yield from [value] if type(value) is str else _flatten(value)
    elif isinstance(table, tuple):
        yield from (row[1] for row in table if isinstance(row, tuple) and len(row) == 2)
    else:
        yield from (
            str(getattr(table, name)) for name in ("text", "meaning", "title") if hasattr(table, name)
        )


def _read_policy() -> Iterator[tuple[Path, Id]]:
    for info in Policy.model_fields.values():
        yield ROOT / "backtalk" / "policy.py", info.description or ""


# --- what a language says ----------------------------------------------------------------------
def find_catalogue(language: str) -> Path:
    return CATALOGUES / language.replace("-", "_") / "LC_MESSAGES" / "messages.po"


def read_catalogue(language: str) -> Catalog:
    path, locale = find_catalogue(language), language.replace("-", "_")
    if not path.is_file():
        return Catalog(locale)
    with path.open("rb") as file:
        return read_po(file, locale=locale)


def update(language: str) -> None:
    before, after = read_catalogue(language), Catalog(language.replace("-", "_"))
    for message, files in sorted(list_messages().items(), key=lambda pair: (sorted(pair[1]), str(pair[0]))):
        known = before.get(message)
        after.add(
            message, known.string if known else None, locations=[(name, None) for name in sorted(files)]
        )
    written = BytesIO()
    write_po(written, after, omit_header=True, width=110)
    path = find_catalogue(language)
    path.parent.mkdir(parents=True, exist_ok=True)
    head = HEADER.format(locale=after.locale_identifier, plurals=after.plural_forms)
    path.write_text(head + written.getvalue().decode(), encoding="utf-8")


def list_faults(language: str) -> list[str]:
    """What is wrong with a catalogue, a line each."""
    wanted, catalogue = list_messages(), read_catalogue(language)
    known = {message.id: message for message in catalogue if message.id}
    faults = [f"missing: {message!r}" for message in wanted if message not in known]
    faults += [f"not said any more: {message!r}" for message in known if message not in wanted]
    for message in known.values():
        faults += list_faults_of(message)
    return faults


def list_faults_of(message: Message) -> list[str]:
    if message.fuzzy:
        return [f"fuzzy: {message.id!r}"]
    said = message.string if isinstance(message.string, tuple) else (message.string,)
    if not all(said):
        return [f"not translated: {message.id!r}"]
    original = message.id if isinstance(message.id, str) else message.id[-1]
    wanted = list_placeholders(original)
    return [f"filled in otherwise: {message.id!r}" for one in said if list_placeholders(one) != wanted]


def list_placeholders(text: str) -> set[str]:
    """`%(name)s` of the server's sentences, `{name}` of the scripts', and tags."""
    return set(re.findall(r"%\(\w+\)s|\{\w+\}|</?\w+>", text))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--check", action="store_true", help="change nothing")
    check = parser.parse_args().check
    faults = []
    for language in (tag for tag in LANGUAGES if tag != DEFAULT):
        if not check:
            update(language)
        faults += [f"{language}: {fault}" for fault in list_faults(language)]
    print("\n".join(faults) or "Every message is translated.")
    sys.exit(1 if faults else 0)


if __name__ == "__main__":
    main()

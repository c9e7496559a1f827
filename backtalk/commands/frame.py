"""What commands share: settings, the system behind them, and how they speak."""

import json
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from backtalk.config import Settings
from backtalk.errors import BacktalkError, InvalidInput

if TYPE_CHECKING:
    from backtalk.system import System


class PlainGroup(click.Group):
    """Foreseen failures end in one sentence and exit status 1, never in a traceback."""

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except BacktalkError as error:
            raise click.ClickException(error.message) from None
        except click.ClickException:
            raise
        except Exception as error:
            if sentence := _explain(error):
                raise click.ClickException(sentence) from None
            raise


def _explain(error: Exception) -> str | None:
    """A sentence for a failure that comes from outside; none for a mistake of our own."""
    from sqlalchemy.exc import OperationalError

    if isinstance(error, OperationalError):
        return f"The database does not answer: {' '.join(str(error.orig).split())}"
    return None


def load_settings(**overrides: Any) -> Settings:
    """Settings from the environment; bad ones end the command with the sentence that names them."""
    given = {name: value for name, value in overrides.items() if value is not None}
    try:
        return Settings.load(**given)
    except ValueError as error:
        raise click.ClickException(str(error)) from None


def home_option(function: Any) -> Any:
    """`--home`, as every command that needs the system takes it."""
    return click.option(
        "--home",
        type=click.Path(file_okay=False, path_type=Path),
        help="Home folder of this machine's stack; BACKTALK_HOME, or ./.backtalk.",
    )(function)


@contextmanager
def open_system(home: Path | None, purpose: str) -> Iterator["System"]:
    """The system behind a command: a configured database, the running stack's, or one for the moment."""
    from backtalk import bootstrap, embedded

    with embedded.reach(load_settings(home=home), purpose) as settings:
        system = bootstrap.build(settings, pool_size=2, statement_timeout_s=300.0)
        try:
            yield system
        finally:
            system.close()


def parse_pairs(pairs: Sequence[str]) -> dict[str, Any]:
    """`key=value` words: true, null and numbers as JSON has them, everything else as text.

    Raises:
        InvalidInput: a word has no `=`.
    """
    values: dict[str, Any] = {}
    for pair in pairs:
        key, separator, text = pair.partition("=")
        if not separator or not key:
            raise InvalidInput(f"{pair!r} is not key=value, such as min_approved=20.")
        values[key.strip()] = _parse_value(text.strip())
    return values


def _parse_value(text: str) -> Any:
    try:
        value = json.loads(text)
    except ValueError:
        return text  # 02:00, Europe/Berlin, auto
    return text if isinstance(value, dict | list) else value


def write_value(value: Any) -> str:
    """As `parse_pairs` reads it."""
    return value if isinstance(value, str) else json.dumps(value)


@contextmanager
def show_progress() -> Iterator[Callable[[str, float, float], None]]:
    """A bar per step on a terminal, and a line per step elsewhere."""
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeElapsedColumn

    console = Console(stderr=True)
    columns = (TextColumn("{task.description:<10}"), BarColumn(), TaskProgressColumn(), TimeElapsedColumn())
    with Progress(*columns, console=console, disable=not console.is_terminal) as progress:
        steps: dict[str, Any] = {}

        def report(step: str, done: float, total: float) -> None:
            if step not in steps:
                steps[step] = progress.add_task(step, total=total)
                if not console.is_terminal:
                    click.echo(f"{step} …", err=True)
            progress.update(steps[step], completed=done, total=total)

        yield report

"""`keys` and `users`: who may do what."""

import secrets
import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path

import click

from backtalk.callers import CLI
from backtalk.commands.frame import home_option, open_system
from backtalk.errors import InvalidInput


def _words(_ctx: click.Context, _parameter: click.Parameter, value: str) -> list[str]:
    return [word.strip() for word in value.split(",") if word.strip()]


@click.group()
def keys() -> None:
    """Keys of apps."""


@keys.command("create")
@click.option("--name", required=True, help="What the key is for.")
@click.option("--scopes", required=True, callback=_words, help="predict,feedback,review,train,promote,admin")
@click.option("--trusted", is_flag=True, help="Its corrections need no review under `review=trusted`.")
@click.option("--expires-days", type=click.IntRange(1, 3650), help="Days until it ends.")
@home_option
def create_key(
    name: str, scopes: list[str], trusted: bool, expires_days: int | None, home: Path | None
) -> None:
    """Make a key and print it, once."""
    from backtalk import identity

    expires_at = datetime.now(UTC) + timedelta(days=expires_days) if expires_days else None
    with open_system(home, "keys create") as system, system.db.transaction() as session:
        key = identity.create_key(session, name=name, scopes=scopes, trusted=trusted, expires_at=expires_at)
        identity.log_action(session, CLI.actor, "key.create", f"key:{key.split('_')[1]}", scopes=scopes)
    click.echo(key)


@keys.command("revoke")
@click.argument("key_id")
@home_option
def revoke_key(key_id: str, home: Path | None) -> None:
    """End a key, given whole or by its id (the part between the underscores)."""
    from backtalk import identity

    key_id = key_id.split("_")[1] if key_id.startswith("bt_") else key_id
    with open_system(home, "keys revoke") as system, system.db.transaction() as session:
        identity.revoke_key(session, key_id)
        identity.log_action(session, CLI.actor, "key.revoke", f"key:{key_id}")
    click.echo(f"Key {key_id} is revoked.")


@click.group()
def users() -> None:
    """People who sign in to the pages."""


@users.command("create")
@click.argument("name")
@click.option("--scopes", default="review", show_default=True, callback=_words, help="As for keys.")
@click.option("--password-stdin", is_flag=True, help="Read the password from standard input.")
@click.option("--generate", is_flag=True, help="Make a password and print it.")
@home_option
def create_user(
    name: str, scopes: list[str], password_stdin: bool, generate: bool, home: Path | None
) -> None:
    """Make a user. Asks for the password; makes and prints one where there is nobody to ask."""
    from backtalk import identity

    password, is_new = _choose_password(password_stdin, generate)
    with open_system(home, "users create") as system, system.db.transaction() as session:
        user = identity.create_user(session, name=name, password=password, scopes=scopes)
        identity.log_action(session, CLI.actor, "user.create", f"user:{user.name}", scopes=scopes)
        name = user.name
    click.echo(f"User {name} may now sign in ({', '.join(scopes)}).", err=True)
    if is_new:
        click.echo(password)


def _choose_password(from_stdin: bool, generate: bool) -> tuple[str, bool]:
    """The password, and whether it was made here."""
    if from_stdin and generate:
        raise InvalidInput("Choose one of --password-stdin and --generate.")
    if from_stdin:
        return sys.stdin.readline().rstrip("\r\n"), False
    if generate or not sys.stdin.isatty():
        return secrets.token_urlsafe(15), True
    return click.prompt("Password", hide_input=True, confirmation_prompt=True), False

"""`keys` and `users`: who may do what."""

import secrets
import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

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
    from backtalk import audit, identity

    given: dict[str, Any] = {"name": name, "scopes": scopes, "trusted": trusted}
    with open_system(home, "keys create") as system, system.db.transaction() as session:
        key = identity.create_key(session, expires_at=_in_days(expires_days), **given)
        subject = f"key:{identity.read_id(key)}"
        audit.record(session, CLI.actor, "key.create", subject, expires_days=expires_days, **given)
    click.echo(key)


@keys.command("list")
@home_option
def list_keys(home: Path | None) -> None:
    """All keys, the newest first: id, name, state, scopes, last use, end."""
    from backtalk import identity

    with open_system(home, "keys list") as system, system.db.reading() as session:
        found = identity.list_keys(session)
    for key in found:
        words = [key.id, key.name, key.state, ",".join(key.scopes) + (" trusted" if key.trusted else "")]
        words += [f"used {_day(key.last_used_at)}", f"ends {_day(key.expires_at)}"]
        if key.state == "rotating":
            words.append(f"older secret until {_day(key.older_until)}, used {_day(key.older_used_at)}")
        click.echo("\t".join(words))


@keys.command("rotate")
@click.argument("key_id")
@click.option(
    "--overlap",
    type=click.IntRange(0, 365),
    default=7,
    show_default=True,
    help="Days that the secret before it lives on; 0 ends it now.",
)
@click.option(
    "--expires-days", type=click.IntRange(1, 3650), help="Days until the key ends; unchanged if not given."
)
@home_option
def rotate_key(key_id: str, overlap: int, expires_days: int | None, home: Path | None) -> None:
    """Give a key, named whole or by its id, a new secret and print it, once.

    It stays the same key: what was issued to it is its own. `keys list` shows if the older secret is used.
    """
    from backtalk import audit, identity

    key_id = identity.read_id(key_id)
    with open_system(home, "keys rotate") as system, system.db.transaction() as session:
        token = identity.rotate_key(
            session, key_id, overlap=timedelta(days=overlap), expires_at=_in_days(expires_days)
        )
        detail = {"overlap_days": overlap, "expires_days": expires_days}
        audit.record(session, CLI.actor, "key.rotate", f"key:{key_id}", **detail)
    click.echo(token)
    lives = f"lives on for {overlap} days" if overlap else "ends within seconds"
    click.echo(f"The secret before it {lives}; any older one has ended.", err=True)


@keys.command("revoke")
@click.argument("key_id")
@home_option
def revoke_key(key_id: str, home: Path | None) -> None:
    """End a key, given whole or by its id (the part between the underscores)."""
    from backtalk import audit, identity

    key_id = identity.read_id(key_id)
    with open_system(home, "keys revoke") as system, system.db.transaction() as session:
        identity.revoke_key(session, key_id)
        audit.record(session, CLI.actor, "key.revoke", f"key:{key_id}")
    click.echo(f"Key {key_id} is revoked.")


def _in_days(days: int | None) -> datetime | None:
    return datetime.now(UTC) + timedelta(days=days) if days else None


def _day(moment: datetime | None) -> str:
    return f"{moment:%Y-%m-%d %H:%M}" if moment else "never"


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
    from backtalk import audit, identity

    password, is_new = _choose_password(password_stdin, generate)
    with open_system(home, "users create") as system, system.db.transaction() as session:
        user = identity.create_user(session, name=name, password=password, scopes=scopes)
        audit.record(session, CLI.actor, "user.create", f"user:{user.name}", scopes=scopes)
        name = user.name
    click.echo(f"User {name} may now sign in ({', '.join(scopes)}).", err=True)
    if is_new:
        click.echo(password)


@users.command("list")
@home_option
def list_users(home: Path | None) -> None:
    """Everybody: name, state, scopes."""
    from backtalk import identity

    with open_system(home, "users list") as system, system.db.reading() as session:
        found = identity.list_users(session)
    for user in found:
        state = "disabled" if user.disabled_at else "active"
        click.echo(f"{user.name}\t{state}\t{','.join(user.scopes)}")


@users.command("disable")
@click.argument("name")
@home_option
def disable_user(name: str, home: Path | None) -> None:
    """Keep somebody out; their open sessions end now."""
    _set_disabled(name, True, home)
    click.echo(f"{name} is signed out and may no longer sign in.")


@users.command("enable")
@click.argument("name")
@home_option
def enable_user(name: str, home: Path | None) -> None:
    """Let somebody in again."""
    _set_disabled(name, False, home)
    click.echo(f"{name} may sign in again.")


def _set_disabled(name: str, disabled: bool, home: Path | None) -> None:
    from backtalk import audit, identity

    action = "user.disable" if disabled else "user.enable"
    with open_system(home, action) as system, system.db.transaction() as session:
        identity.set_disabled(session, name, disabled)
        audit.record(session, CLI.actor, action, f"user:{name.lower()}")


@users.command("password")
@click.argument("name")
@click.option("--password-stdin", is_flag=True, help="Read the password from standard input.")
@click.option("--generate", is_flag=True, help="Make a password and print it.")
@home_option
def change_password(name: str, password_stdin: bool, generate: bool, home: Path | None) -> None:
    """Give somebody a new password; their open sessions end now."""
    from backtalk import audit, identity

    password, is_new = _choose_password(password_stdin, generate)
    with open_system(home, "users password") as system, system.db.transaction() as session:
        identity.set_password(session, name, password)
        audit.record(session, CLI.actor, "user.password", f"user:{name.lower()}")
    click.echo(f"{name} has a new password and is signed out everywhere.", err=True)
    if is_new:
        click.echo(password)


@users.command("roles")
@click.argument("name")
@click.option(
    "--scopes", required=True, callback=_words, help="As for keys: all that they may do from now on."
)
@home_option
def change_roles(name: str, scopes: list[str], home: Path | None) -> None:
    """Say what somebody may do, from their next click on."""
    from backtalk import audit, identity

    with open_system(home, "users roles") as system, system.db.transaction() as session:
        identity.set_scopes(session, name, scopes)
        audit.record(session, CLI.actor, "user.roles", f"user:{name.lower()}", scopes=scopes)
    click.echo(f"{name} may now: {', '.join(scopes)}.")


def _choose_password(from_stdin: bool, generate: bool) -> tuple[str, bool]:
    """The password, and whether it was made here."""
    if from_stdin and generate:
        raise InvalidInput("Choose one of --password-stdin and --generate.")
    if from_stdin:
        return sys.stdin.readline().rstrip("\r\n"), False
    if generate or not sys.stdin.isatty():
        return secrets.token_urlsafe(15), True
    return click.prompt("Password", hide_input=True, confirmation_prompt=True), False

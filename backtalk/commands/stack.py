"""`up`, `migrate` and `demo`: commands that run the stack, or make its database ready."""

import os
import sys
from importlib.util import find_spec
from pathlib import Path

import click

from backtalk.commands.frame import home_option, load_settings
from backtalk.errors import Unavailable

#: What the demo needs beyond the stack.
DEMO_NEEDS = ("elpv_dataset", "httpx", "matplotlib", "plotext", "demo")
_FILE = click.Path(dir_okay=False, path_type=Path)


@click.command()
@click.option("--port", type=click.IntRange(0, 65535), help="Port of the API and pages; 0 picks a free one.")
@click.option("--host", help="Address to listen on; 127.0.0.1 unless set.")
@click.option("--tls-cert", type=_FILE, help="Certificate with its chain, PEM: HTTPS instead of HTTP.")
@click.option("--tls-key", type=_FILE, help="Its key, PEM, without a password.")
@home_option
def up(
    port: int | None, host: str | None, tls_cert: Path | None, tls_key: Path | None, home: Path | None
) -> None:
    """Run everything on this machine until Ctrl-C."""
    from backtalk import embedded

    settings = load_settings(home=home, api_port=port, api_host=host, tls_cert=tls_cert, tls_key=tls_key)
    with embedded.open_stack(settings) as stack:
        try:
            info = stack.start()
        except embedded.StopAsked:
            return
        stack.supervisor.say("up", f"ready at {info.address} (API documentation at {info.address}/docs)")
        stack.watch()
        stack.supervisor.say("up", "stopping")


@click.command()
@click.option("--port", type=click.IntRange(1, 65535), default=6006, show_default=True)
@click.option("--host", default="127.0.0.1", show_default=True, help="Address to listen on.")
@home_option
def tensorboard(port: int, host: str, home: Path | None) -> None:
    """Show the curves of all runs in TensorBoard until Ctrl-C."""
    if find_spec("tensorboard") is None:
        raise click.ClickException("TensorBoard is not installed here: pip install 'backtalk[train]'.")
    folder = load_settings(home=home).boards_path
    if not any(folder.glob("*/*")):
        raise click.ClickException(f"There are no logs in {folder} yet: the next run writes some.")
    click.echo(f"http://{host}:{port}  (logs of {folder})")
    words = ["--logdir", str(folder), "--port", str(port), "--host", host]
    os.execv(sys.executable, [sys.executable, "-m", "tensorboard.main", *words])  # noqa: S606  # becomes it


@click.command()
@home_option
def migrate(home: Path | None) -> None:
    """Bring the database's schema up to date, and the rights of the application's role with it."""
    from backtalk import embedded, schema
    from backtalk.roles import name_of

    with embedded.reach(load_settings(home=home), "migrate") as settings:
        assert settings.database_url is not None
        role = name_of(settings.database_url)
        owner = name_of(settings.migration_url or settings.database_url)
    click.echo(f"The schema is at revision {schema.newest_revision()}; it belongs to {owner}.")
    if role == owner:
        click.echo(
            f"Processes connect as {role} too, who may change what is append-only: see docs/security.md.",
            err=True,
        )
    else:
        click.echo(f"Processes connect as {role}, who may only append to ledger, decisions and audit_log.")


@click.command()
@click.option("--keep", is_flag=True, help="Leave the stack up at the end, and print how to sign in.")
@click.option("--full", is_flag=True, help="End with a full run, which moves the backbone: 20 minutes more.")
@click.option("--out", type=click.Path(path_type=Path), default="demo.png", show_default=True)
def demo(keep: bool, full: bool, out: Path) -> None:
    """Watch the loop close on solar cells: about five minutes, ends by itself."""
    missing = [name for name in DEMO_NEEDS if find_spec(name) is None]
    if missing:
        raise Unavailable(
            f"The demo needs {', '.join(missing)}: run it in a checkout, with `make demo`, "
            "or install the extra `demo` there."
        )
    from demo.main import run  # type: ignore[import-not-found, unused-ignore]

    sys.exit(run(keep=keep, full=full, picture=out))

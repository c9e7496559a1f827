"""`make demo`: the whole loop on real images, from an empty folder to a better live version."""

import secrets
import signal
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from types import FrameType

from rich.console import Console

from demo.app import App
from demo.book import Book
from demo.cells import Parts, draw_parts, find_data, load_cells, write_folder
from demo.client import Client
from demo.full import RECIPE, run_full
from demo.loop import Loop
from demo.measurer import Measurer
from demo.report import Report
from demo.reviewer import Reviewer
from demo.stack import Stack

MODEL = "solar-cells"
MIN_APPROVED = 90  # about fifty corrections and forty audited right answers: some five runs in all
POLICY = {"audit_share": 0.2, "debounce_s": 1, "cooldown_s": 0, "min_approved": MIN_APPROVED}
LEFT_FOR_VISITORS = 40  # cells whose feedback nobody has decided, where the stack is kept
VISITOR = "alice"


def run(*, keep: bool = False, full: bool = False, seed: int = 7, picture: Path = Path("demo.png")) -> int:
    """Play the demo; returns the status to exit with: 0, 1 after a failure, 130 after Ctrl-C."""
    signal.signal(signal.SIGTERM, _interrupt)
    report = Report(Console())
    with tempfile.TemporaryDirectory(prefix="backtalk-demo-", ignore_cleanup_errors=True) as folder:
        stack = Stack(Path(folder) / "home")
        try:
            _play(stack, Path(folder), report, keep=keep, full=full, seed=seed, picture=picture)
        except KeyboardInterrupt:
            report.say("\nStopped.")
            return 130
        except Exception as error:  # noqa: BLE001  # whatever it was, it is told and the stack is stopped
            report.fail(error, stack.tail())
            return 1
        finally:
            stack.stop()
    return 0


def _play(
    stack: Stack, folder: Path, report: Report, *, keep: bool, full: bool, seed: int, picture: Path
) -> None:
    started = time.monotonic()
    parts = draw_parts(load_cells(find_data()), seed)
    report.say("Starting the stack …")
    stack.start()
    _create_model(stack, parts, folder, report)
    traffic = parts.traffic[:-LEFT_FOR_VISITORS] if keep else parts.traffic
    with _people(stack, parts, report, seed) as (loop, app, client):
        bar, advance = report.sending(len(traffic))
        with bar:
            loop.play(traffic, advance)
        _tell_story(loop, client, report)
        report.draw(loop.milestones, loop.runs, len(traffic), picture)
        report.sum_up(loop.milestones, loop.runs, time.monotonic() - started)
        if full:
            _play_full(stack, loop, report)
        if keep:
            app.send(parts.traffic[-LEFT_FOR_VISITORS:])
            _stay_up(stack, report)


def _create_model(stack: Stack, parts: Parts, folder: Path, report: Report) -> None:
    report.say(f"Making model [bold]{MODEL}[/] from {len(parts.base)} monocrystalline cells …")
    cells = write_folder(parts.base, folder / "cells")
    said = stack.run("models", "create", MODEL, "--from", cells)
    report.quote(said)
    stack.run("policy", "set", MODEL, *(f"{name}={value}" for name, value in POLICY.items()))


@contextmanager
def _people(stack: Stack, parts: Parts, report: Report, seed: int) -> Iterator[tuple[Loop, App, Client]]:
    """Who takes part: each with a key of its own."""
    with ExitStack() as closing:

        def client(name: str, *scopes: str) -> Client:
            one = Client(stack.address, stack.create_key(name, *scopes))
            closing.callback(one.close)
            return one

        book = Book()
        production = client("production-line", "predict", "feedback")
        app = App(production, MODEL, book, seed=seed)
        reviewer = Reviewer(client("reviewer", "review"), MODEL, book)
        measurer = Measurer(client("measurer", "predict"), MODEL, book, parts.untouched)
        for one in (app, reviewer, measurer):
            closing.callback(one.close)
        yield (
            Loop(production, MODEL, app, reviewer, measurer, min_approved=MIN_APPROVED, show=report.show),
            app,
            production,
        )


def _tell_story(loop: Loop, client: Client, report: Report) -> None:
    """The first correction, of a new kind of cell, that a live version has learned from."""
    promoted = {run.row["version"]: run.row for run in loop.runs if run.promoted}
    for told in loop.told:
        if told.correction_id and told.cell.module == "poly":
            receipt = client.receipt(told.correction_id)
            if receipt["live_in"] in promoted and receipt["fixed_now"]:
                report.tell_receipt(told, receipt, promoted[receipt["live_in"]])
                return
    report.say("No correction has reached a live version.")


def _play_full(stack: Stack, loop: Loop, report: Report) -> None:
    """The backbone learns too: minutes to an hour, by the cores that there are."""
    report.say(f"\nA full run by the recipe [bold]{RECIPE}[/]: it moves the backbone, and takes its time …")
    trainer = Client(stack.address, stack.create_key("trainer", "train"))
    bar, watch = report.watching()
    try:
        with bar:
            run = run_full(trainer, MODEL, watch)
    finally:
        trainer.close()
    report.show_judgement(run)
    loop.measure()


def _stay_up(stack: Stack, report: Report) -> None:
    password = secrets.token_urlsafe(9)
    stack.run(
        "users", "create", VISITOR, "--scopes", "review,promote", "--password-stdin", stdin=password + "\n"
    )
    report.say(f"\nReview page: [bold]{stack.address}/review/{MODEL}[/]")
    report.say(f"Sign in as [bold]{VISITOR}[/] with [bold]{password}[/]. Ctrl-C ends it.")
    with suppress(KeyboardInterrupt):
        signal.pause()


def _interrupt(_number: int, _frame: FrameType | None) -> None:
    raise KeyboardInterrupt


if __name__ == "__main__":
    sys.exit(run(keep="--keep" in sys.argv, full="--full" in sys.argv))

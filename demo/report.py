"""What the demo prints."""

from collections.abc import Callable
from datetime import datetime
from pathlib import Path

from rich.console import Console
from rich.markup import escape
from rich.panel import Panel
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table

from demo import chart
from demo.app import Told
from demo.client import Json
from demo.story import EndedRun, Milestone

_COLOURS = {
    "promoted": "green",
    "passed": "green",
    "inconclusive": "yellow",
    "rejected": "red",
    "failed": "red",
}


class Report:
    """Prints as things happen; `console` decides about colours and width."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._progress = Progress(
            TextColumn("[bold]{task.description}"),
            BarColumn(bar_width=32),
            MofNCompleteColumn(),
            TextColumn("cells"),
            TimeElapsedColumn(),
            console=console,
            transient=True,
        )

    def say(self, text: str) -> None:
        self._console.print(text, highlight=False)

    def quote(self, said: str) -> None:
        """What a command printed, set in."""
        for line in said.rstrip().splitlines():
            self._console.print(f"  [dim]{escape(line)}[/]", highlight=False)

    def fail(self, error: Exception, log: str) -> None:
        """Why the demo broke off, and what the stack said last."""
        self._console.print(f"[bold red]The demo failed.[/] {escape(str(error) or repr(error))}")
        if log:
            self._console.print(Panel(escape(log), title="the end of the stack's log", title_align="left"))

    def sending(self, total: int) -> tuple[Progress, Callable[[int], None]]:
        """A bar to use as a context, and the function that moves it on."""
        task = self._progress.add_task("production", total=total)
        return self._progress, lambda n: self._progress.advance(task, n)

    def watching(self) -> tuple[Progress, Callable[[Json], None]]:
        """A bar for one run, to use as a context, and the function that is shown the run as it goes."""
        columns = (TextColumn("[bold]{task.description}"), BarColumn(bar_width=32), TimeElapsedColumn())
        bar = Progress(*columns, console=self._console, transient=True)
        task = bar.add_task("queued", total=1.0)

        def watch(run: Json) -> None:
            progress = run["progress"] if run["state"] == "training" else {}
            said = [str(progress.get("part", run["state"]))]
            if "epoch" in progress:
                said.append(f"epoch {progress['epoch']} of {progress['epochs']}, loss {progress['loss']:.3f}")
                said.append(f"{progress['time_left_s']:.0f} s left")
            bar.update(task, description=", ".join(said), completed=progress.get("fraction", 0.0))

        return bar, watch

    def show_judgement(self, run: Json) -> None:
        """Each check of the gate on one run, and the verdict."""
        table = Table("check", "value", "bound", "n", "fixed", "broken", "passed", title="The gate's checks")
        for check in run["checks"]:
            value, bound = ("" if check[key] is None else f"{check[key]:.4f}" for key in ("value", "bound"))
            passed = {True: "[green]yes[/]", False: "[red]no[/]", None: "not judged"}[check["passed"]]
            counts = (str(check[key]) for key in ("n", "fixed", "broken"))
            table.add_row(check["check"], value, bound, *counts, passed)
        self._console.print(table)
        colour = _COLOURS.get(run["state"], "white")
        self.say(f"[bold]full run[/]  [bold {colour}]{run['state']}[/]  {escape(run.get('reason') or '')}")

    def show(self, happened: Milestone | EndedRun) -> None:
        if isinstance(happened, Milestone):
            self._show_milestone(happened)
        else:
            self._show_run(happened)

    def _show_milestone(self, stone: Milestone) -> None:
        mono, poly = (100 * stone.measured.accuracy(module) for module in ("mono", "poly"))
        line = f"[bold green]version {stone.version}[/] answers: "
        line += f"mono [bold]{mono:.1f} %[/], poly [bold]{poly:.1f} %[/]"
        if stone.fixed or stone.broken:
            line += f"; against the version before: {stone.fixed} fixed, {stone.broken} broken"
        self.say(f"  {line}  [dim]({len(stone.measured.labels)} untouched cells)[/]")

    def _show_run(self, run: EndedRun) -> None:
        state = run.row["state"]
        colour = _COLOURS.get(state, "white")
        reason = escape(run.row.get("reason") or "")
        self.say(f"[bold]run {run.number}[/]  {run.feedback} labels  [bold {colour}]{state}[/]  {reason}")

    def tell_receipt(self, told: Told, receipt: Json, run: Json) -> None:
        """One correction from the app's call to the version that answers now."""
        rows = Table.grid(padding=(0, 2))
        answered = f"version {told.version} said [red]{told.label}[/] ({100 * told.score:.0f} %)"
        rows.add_row("asked", f"{told.cell.name}, a {told.cell.module}crystalline cell: {answered}")
        rows.add_row("talked back", f"[green]{receipt['label']}[/] was right; correction {receipt['id']}")
        rows.add_row("reviewed", f"{receipt['state']} at {_clock(receipt['reviewed_at'])}")
        rows.add_row(
            "learned", f"on the side `{receipt['split']}`, in the snapshot of version {receipt['trained_in']}"
        )
        rows.add_row("judged", f"{escape(run.get('reason') or '')}")
        rows.add_row("live", f"version {receipt['live_in']}, since {_clock(run['ended_at'])}")
        fixed = "[green]yes[/]" if receipt["fixed_now"] else "[red]no[/]"
        rows.add_row("fixed now?", f"{fixed}: what the live version says of this very image")
        self._console.print(Panel(rows, title="The receipt of one correction", title_align="left"))

    def draw(self, milestones: list[Milestone], runs: list[EndedRun], sent: int, picture: Path) -> None:
        """The chart in the terminal and as a PNG."""
        coloured = self._console.is_terminal and not self._console.no_color
        self._console.out(chart.draw_in_terminal(milestones, runs, coloured=coloured), highlight=False)
        chart.draw_picture(milestones, runs, sent, picture)
        self.say(f"The same as a picture: [bold]{picture}[/]")

    def sum_up(self, milestones: list[Milestone], runs: list[EndedRun], seconds: float) -> None:
        first, last = milestones[0].measured, milestones[-1].measured
        promoted = sum(run.promoted for run in runs)
        self.say(
            f"[bold]{promoted} of {len(runs)} runs promoted[/] in {seconds:.0f} s. "
            + "; ".join(
                f"{module}: {100 * first.accuracy(module):.1f} → {100 * last.accuracy(module):.1f} %"
                for module in ("mono", "poly")
            )
            + ", over HTTP, on cells that nobody labelled."
        )


def _clock(moment: str | None) -> str:
    return datetime.fromisoformat(moment).astimezone().strftime("%H:%M:%S") if moment else "(not yet)"

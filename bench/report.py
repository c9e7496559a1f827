"""The figures of the benchmarks, for people and for machines."""

from typing import Any

from rich.console import Console
from rich.table import Table

from bench.bench_loop import PARTS


def print_tables(console: Console, machine: dict[str, Any], results: dict[str, Any]) -> None:
    """One table per benchmark that has figures."""
    console.print(f"\n{machine['cpu']}, {machine['cores']} cores, Python {machine['python']}")
    for name, show in (
        ("predict", _predict),
        ("loop", _loop),
        ("full", _full),
        ("swaps", _swaps),
        ("memory", _memory),
        ("review", _review),
        ("devices", _devices),
    ):
        if name in results:
            console.print(show(results[name]))


def _loop(figures: dict[str, Any]) -> Table:
    table = Table("trainer", "seconds", "target", *PARTS, "to cold", title="Feedback to live, seconds")
    for name, row in figures.items():
        parts = [f"{row['parts'][part]:.2f}" for part in PARTS]
        colour = "green" if row["met"] else "red"
        ratio = str(row.get("ratio_to_cold", "1"))
        table.add_row(name, f"[{colour}]{row['seconds']:.2f}[/]", f"{row['target_s']:.0f}", *parts, ratio)
    return table


def _full(figures: dict[str, Any]) -> Table:
    return _pairs("Steps of a full run", figures)


def _swaps(figures: dict[str, Any]) -> Table:
    return _pairs("Swaps of the live version under load", figures)


def _predict(figures: dict[str, Any]) -> Table:
    return _pairs("Predictions over HTTP", figures)


def _memory(figures: dict[str, Any]) -> Table:
    title = f"Memory of the idle stack: {figures['total_pss_mb']} MB; ready in {figures['ready_s']} s"
    table = Table("process", "how many", "PSS, MB", "RSS, MB", title=title)
    for role, row in sorted(figures["processes"].items(), key=lambda item: -item[1]["pss_mb"]):
        table.add_row(role, f"{row['processes']:.0f}", f"{row['pss_mb']:.1f}", f"{row['rss_mb']:.1f}")
    return table


def _review(figures: dict[str, Any]) -> Table:
    keys = figures["keys"]
    title = (
        f"Review: key press to next picture p50 {keys['p50_ms']} ms, p95 {keys['p95_ms']} ms over "
        f"{keys['items']} items (target {keys['target_p95_ms']:.0f}); "
        f"{keys['decisions_per_minute']} decisions a minute"
    )
    title += "; the server: median, 95th percentile, and processor time of the median"
    table = Table("request", *figures["server"], title=title)
    rows: dict[str, None] = dict.fromkeys(name for pages in figures["server"].values() for name in pages)
    for name in rows:
        cells = [pages.get(name) for pages in figures["server"].values()]
        table.add_row(name, *(_show_times(one) if one else "" for one in cells))
    return table


def _devices(figures: dict[str, Any]) -> Table:
    heads = ("form", "MB", "of float32", "ms", "of float32", "right", "same label as float32")
    table = Table(*heads, title="A version for devices, one picture on one thread")
    for form, row in figures.items():
        times = (f"{row['ms']:.2f}", f"{row['time_ratio']:.2f}")
        shares = (f"{row['accuracy']:.1%}", f"{row['same_label']:.1%}")
        table.add_row(form, f"{row['megabytes']:.2f}", f"{row['size_ratio']:.2f}", *times, *shares)
    return table


def _show_times(one: dict[str, Any]) -> str:
    colour = "green" if one["met"] else "red"
    return f"[{colour}]{one['median_ms']}[/] · {one['p95_ms']} · {one['processor_ms']} ms"


def _pairs(title: str, figures: dict[str, Any]) -> Table:
    table = Table("figure", "value", title=title)
    for name, value in _flatten(figures):
        table.add_row(name, str(value))
    return table


def _flatten(figures: dict[str, Any], before: str = "") -> list[tuple[str, Any]]:
    rows: list[tuple[str, Any]] = []
    for name, value in figures.items():
        full = f"{before}{name}"
        rows += _flatten(value, f"{full}.") if isinstance(value, dict) else [(full, value)]
    return rows

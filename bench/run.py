"""`make bench`: every benchmark, as a table and as `bench/out/latest.json`."""

import argparse
import sys
import time
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from rich.console import Console

from bench.bench_devices import measure_devices
from bench.bench_full import measure_full
from bench.bench_loop import measure_loop
from bench.bench_memory import measure_memory
from bench.bench_predict import measure_predict
from bench.bench_review import measure_review
from bench.bench_swaps import measure_swaps
from bench.machine import describe_machine, write_json
from bench.report import print_tables

OUT = Path(__file__).parent / "out" / "latest.json"
BENCHMARKS: dict[str, Callable[[], dict[str, Any]]] = {
    "predict": measure_predict,
    "loop": measure_loop,
    "full": measure_full,
    "swaps": measure_swaps,
    "memory": measure_memory,
    "review": measure_review,
    "devices": measure_devices,
}


def main() -> int:
    """Run those that are named on the command line, or all; one that fails does not stop the others."""
    parser = argparse.ArgumentParser(prog="python -m bench.run", description=__doc__)
    parser.add_argument("names", nargs="*", choices=[*BENCHMARKS, []], help="which ones; all by default")
    names = parser.parse_args().names or list(BENCHMARKS)
    console = Console()
    results: dict[str, Any] = {}
    failed = False
    for name in names:
        console.print(f"[bold]{name}[/] …")
        began = time.monotonic()
        try:
            results[name] = BENCHMARKS[name]()
        except Exception:  # noqa: BLE001  # the others still run; the status tells
            console.print_exception()
            failed = True
        console.print(f"  took {time.monotonic() - began:.0f} s")
    machine = describe_machine()
    write_json(OUT, {"taken_at": datetime.now(UTC).isoformat(), "machine": machine, "results": results})
    print_tables(console, machine, results)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())

"""An installation to measure: a stack of its own, and a model on real images with the backbone that ships."""

import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TypeVar

from backtalk import bootstrap
from backtalk.home import find_stack
from backtalk.system import System
from demo.cells import Cell, find_data, load_cells, write_folder
from demo.client import Client
from demo.stack import Stack

SCOPES = ("predict", "feedback", "review", "train", "promote", "admin")
#: Quick to trigger, nothing drawn for audit, every correction approved at once.
POLICY = (
    "review=auto",
    "debounce_s=0",
    "cooldown_s=0",
    "nightly=null",
    "audit_share=0",
    "max_runs_per_day=10000",
)

T = TypeVar("T")


@contextmanager
def installed(**settings: str) -> Iterator[tuple[Stack, float]]:
    """A running stack in a temporary folder, and the seconds that it took to be ready."""
    with tempfile.TemporaryDirectory(prefix="backtalk-bench-", ignore_cleanup_errors=True) as folder:
        began = time.monotonic()
        with Stack(Path(folder) / "home", settings) as stack:
            yield stack, time.monotonic() - began


def list_cells(module: str) -> list[Cell]:
    """Solar cells of one kind of module, in the data set's order."""
    return [cell for cell in load_cells(find_data()) if cell.module == module]


def create_model(stack: Stack, name: str, cells: list[Cell]) -> str:
    """A model from a folder, through the command line, with the policy that benchmarks use."""
    with tempfile.TemporaryDirectory(prefix="backtalk-cells-") as folder:
        stack.run("models", "create", name, "--from", write_folder(cells, Path(folder)))
    stack.run("policy", "set", name, *POLICY)
    return name


@contextmanager
def client_of(stack: Stack) -> Iterator[Client]:
    """A client that may do everything."""
    client = Client(stack.address, stack.create_key("bench", *SCOPES))
    try:
        yield client
    finally:
        client.close()


@contextmanager
def opened(stack: Stack) -> Iterator[System]:
    """The same installation from within: its rows and files."""
    info = find_stack(stack.home)
    assert info is not None, "the stack does not run"
    system = bootstrap.build(info.settings(stack.home))
    try:
        yield system
    finally:
        system.close()


def wait_for(find: Callable[[], T | None], *, patience_s: float = 120.0, pause_s: float = 0.02) -> T:
    """What `find` finds, as soon as it does.

    Raises:
        TimeoutError: it does not.
    """
    deadline = time.monotonic() + patience_s
    while time.monotonic() < deadline:
        if found := find():
            return found
        time.sleep(pause_s)
    raise TimeoutError(f"did not come in {patience_s:.0f} s")

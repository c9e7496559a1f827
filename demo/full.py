"""The demo's last act, where it is asked for: a full run, which moves the backbone, and how it was judged."""

import time
from collections.abc import Callable

from demo.client import Client, Json
from demo.loop import ACTIVE

RECIPE = "surfaces"
LOOK_S = 1.0

Watch = Callable[[Json], None]


def run_full(client: Client, model: str, watch: Watch, *, patience_s: float = 4 * 3600.0) -> Json:
    """Ask for a full run and wait for its end; `watch` sees it about every second.

    Raises:
        TimeoutError: it has not ended in time.
    """
    asked = client.train(model, kind="full", recipe=RECIPE)
    deadline = time.monotonic() + patience_s
    while True:
        run = client.run(asked["id"])
        watch(run)
        if run["state"] not in ACTIVE:
            return run
        if time.monotonic() > deadline:
            raise TimeoutError(f"The full run has not ended in {patience_s / 3600:.0f} hours.")
        time.sleep(LOOK_S)

"""How long work tells where it is: the step's name, how much of it is done, and how much there is."""

from collections.abc import Callable

Report = Callable[[str, float, float], None]


def tell_nobody(_step: str, _done: float, _total: float) -> None:
    """For callers who do not want to know."""

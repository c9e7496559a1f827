"""What tests of several parts share."""

import pytest

from backtalk.system import System
from tests.clients import Api, make_api


@pytest.fixture
def api(system: System) -> Api:
    """A caller of the whole app with every scope."""
    return make_api(system)

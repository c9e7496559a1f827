"""The rig as fixtures; `rig.py` says how to use it."""

import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.faults.grounds import Grounds
from tests.faults.rig import Rig
from tests.faults.servers import Servers


@pytest.fixture(scope="session")
def rig_folder() -> Iterator[Path]:
    """Short, for Postgres's socket, and open to the user that Postgres runs as."""
    folder = Path(tempfile.mkdtemp(prefix="bt-rig-"))
    yield folder
    shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture(scope="session")
def servers(rig_folder: Path) -> Iterator[Servers]:
    servers = Servers(rig_folder)
    yield servers
    servers.close()


@pytest.fixture(scope="session")
def grounds(servers: Servers, rig_folder: Path, request: pytest.FixtureRequest) -> Grounds:
    return Grounds(servers, rig_folder / "templates", lambda: request.getfixturevalue("tiny_folder"))


@pytest.fixture
def rig(
    grounds: Grounds, servers: Servers, rig_folder: Path, request: pytest.FixtureRequest
) -> Iterator[Rig]:
    folder = Path(tempfile.mkdtemp(prefix="home-", dir=rig_folder))
    rig = Rig(grounds, servers, folder, request)
    yield rig
    rig.close()
    request.node.user_properties.append(("hits", sorted(set(rig.hit_names()))))
    shutil.rmtree(folder, ignore_errors=True)

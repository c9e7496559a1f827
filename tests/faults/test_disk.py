"""The disk is full, for images, versions, checkpoints or the database: a clean failure, and well again.

The disks are tmpfs of a few megabytes, filled by a file of ballast; taking that away makes room.
"""

import os
import shutil
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from itertools import count
from pathlib import Path

import pytest

from backtalk.errors import OutOfRoom
from backtalk.learn.backbones import verify_backbone
from backtalk.states import ACTIVE_RUN_STATES, RunState
from tests.faults.grounds import Grounds
from tests.faults.history import until_acknowledged
from tests.faults.lessons import get_model, list_leftovers, reload, request_run
from tests.faults.load import correct_one
from tests.faults.rig import Rig
from tests.faults.servers import Servers
from tests.faults.test_trainer_kills import tune
from tests.lessons import School
from tests.served import make_jpeg

#: Postgres restarts by itself when its log finds no room; nobody is answered meanwhile.
AWAY = {503, None}


class Disk:
    """A small file system of its own."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._ballast = folder / "ballast"

    def fill(self, leave: int = 0) -> None:
        """Until so many bytes are left."""
        room = os.statvfs(self.folder)
        with self._ballast.open("ab") as file:
            os.posix_fallocate(file.fileno(), file.tell(), max(1, room.f_bavail * room.f_frsize - leave))

    def make_room(self) -> None:
        self._ballast.unlink()


@pytest.fixture
def mount() -> Iterator[Callable[[str], Disk]]:
    """Makes disks of a size such as `4m`; skips where nothing may be mounted."""
    folders = []

    def make(size: str) -> Disk:
        folder = Path(tempfile.mkdtemp(prefix="bt-disk-"))
        command = ["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(folder)]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode != 0:
            folder.rmdir()
            pytest.skip(f"a small disk cannot be mounted here: {done.stderr.strip()}")
        folder.chmod(0o755)
        folders.append(folder)
        return Disk(folder)

    yield make
    for folder in folders:
        subprocess.run(["umount", "--lazy", str(folder)], check=True)
        folder.rmdir()


@pytest.mark.fault(row=14, tries=1, only="upload")
def test_a_picture_that_finds_no_room_is_not_answered_and_the_next_ones_are(
    rig: Rig, mount: Callable[[str], Disk]
) -> None:
    disk = mount("2m")
    rig.use("served", images=str(disk.folder / "images"), min_free_bytes="0")
    rig.start("api")
    app = rig.caller("predict", "feedback")
    assert correct_one(app, 1).status == 201
    disk.fill(leave=40_000)
    answers = [app.predict("animals", make_jpeg(seed, size=(400, 300))) for seed in range(2, 10)]
    assert {answer.status for answer in answers} == {200, 503}
    assert not answers[-1].acknowledged
    assert app.predict("animals", make_jpeg(1)).status == 200  # the same picture takes no more room
    assert list((disk.folder / "images" / ".incoming").iterdir()) == []
    disk.make_room()
    assert correct_one(app, 11).status == 201
    assert rig.check() == {}


@pytest.mark.slow
@pytest.mark.fault(row=14, tries=2)
def test_an_artefact_that_finds_no_room_fails_its_run_and_the_champion_stays(
    rig: Rig, mount: Callable[[str], Disk]
) -> None:
    disk = mount("64m")
    rig.use("digits", store=str(disk.folder / "store"), ring_again_s="1", lease_s="3")
    shutil.move(rig.folder / "models_store", disk.folder / "store")
    rig.start_all("relay", "beat", "events", "training-head")
    half = sum(p.stat().st_size for p in (disk.folder / "store/digits/1").rglob("*")) // 2
    for leave in (half, 0):  # amid the artefact; at the trainer's job
        disk.fill(leave)
        run = request_run(rig.system)
        rig.wait_for(lambda run=run: reload(rig.system, run).state not in ACTIVE_RUN_STATES, 120)
        failed = reload(rig.system, run)
        assert failed.state == RunState.FAILED
        assert "No space left" in (failed.reason or "")
        assert get_model(rig.system).live_version == 1
        assert list_leftovers(rig.system) == []
        disk.make_room()
        assert rig.check() == {}
    run = request_run(rig.system)
    rig.wait_for(lambda: reload(rig.system, run).state not in ACTIVE_RUN_STATES, 120)
    assert reload(rig.system, run).verdict is not None, reload(rig.system, run).reason
    rig.settle()
    assert rig.check() == {}


@pytest.mark.slow
@pytest.mark.fault(row=14, tries=2)
def test_a_checkpoint_that_finds_no_room_says_so_and_the_next_attempt_goes_on_from_the_last_whole_one(
    rig: Rig, tmp_path: Path, tiny_folder: Path, mount: Callable[[str], Disk], monkeypatch: pytest.MonkeyPatch
) -> None:
    disk = mount("24m")
    school = School.set_up(disk.folder, tiny_folder)
    monkeypatch.setenv("BACKTALK_FAILPOINT_LOG", str(rig.hits))
    monkeypatch.setenv("BACKTALK_FAILPOINTS", "checkpoint.before_sums=disk-full@3")
    with pytest.raises(OutOfRoom):
        tune(school.write_lesson("full"))
    whole = list_checkpoints(disk.folder / "work" / "full")
    assert len(whole) == 2
    monkeypatch.setenv("BACKTALK_FAILPOINTS", "")
    lesson = school.write_lesson("full", fence=2)
    disk.fill(leave=8192)  # and now in truth
    with pytest.raises(OutOfRoom):
        tune(lesson)
    disk.make_room()
    assert list_checkpoints(disk.folder / "work" / "full") == whole
    made = tune(school.write_lesson("full", fence=3))
    assert (school.store / "_backbones" / made["backbone"]["digest"]).is_dir()


@pytest.mark.slow
@pytest.mark.fault(row=14, tries=2)
@pytest.mark.parametrize("method", ["tune", "quantise"])
def test_a_backbone_that_finds_no_room_says_so_leaves_nothing_aside_and_is_made_once_there_is(
    tmp_path: Path, tiny_folder: Path, mount: Callable[[str], Disk], method: str
) -> None:
    school = School.set_up(tmp_path, tiny_folder)
    disk, backbones = mount("1m"), school.store / "_backbones"  # on a disk of its own: all else finds room
    shutil.move(backbones, disk.folder / "backbones")
    backbones.symlink_to(disk.folder / "backbones")
    largest = (backbones / school.backbone / "graph.pb").stat().st_size
    for fence, leave in enumerate((largest // 2, 8192), start=1):  # amid its files; at its folder
        disk.fill(leave)
        with pytest.raises(OutOfRoom, match="The disk is full"):
            tune(school.write_lesson("full", fence=fence, recipe={"method": method}))
        assert [path.name for path in backbones.iterdir()] == [school.backbone]
        disk.make_room()
    made = tune(school.write_lesson("full", fence=3, recipe={"method": method}))
    verify_backbone(backbones / made["backbone"]["digest"])


def list_checkpoints(work: Path) -> list[str]:
    return sorted(path.name for path in (work / "checkpoints").iterdir())


@pytest.mark.slow
@pytest.mark.fault(row=14, tries=2)
def test_a_database_without_room_for_the_ledger_takes_nothing_and_goes_on_with_room(
    tiny_folder: Path, mount: Callable[[str], Disk], request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    disk = mount("400m")
    servers = Servers(disk.folder)
    home = Path(tempfile.mkdtemp(prefix="bt-home-"))
    rig = Rig(Grounds(servers, tmp_path / "templates", lambda: tiny_folder), servers, home, request)
    try:
        rig.use("served").start("api")
        admin, app = rig.caller(), rig.caller("predict", "feedback")
        disk.fill()
        seeds = count()
        refuse_in_the_end(lambda: change_live(admin, next(seeds)))
        refuse_in_the_end(lambda: correct_status(app, next(seeds)))
        disk.make_room()
        servers.postgres.mend()
        rig.wait_for(rig.is_ready, 30)
        assert rig.check() == {}
        assert until_acknowledged(lambda: admin.post("/v1/models/animals/versions/2:promote")).status == 200
        assert correct_one(app, next(seeds)).status == 201
        assert rig.check() == {}
    finally:
        rig.close()
        servers.close()
        shutil.rmtree(home)


def change_live(admin: object, number: int) -> int | None:
    """There and back: each writes to ledger and audit log."""
    path = "/v1/models/animals/versions/2:promote" if number % 2 == 0 else "/v1/models/animals:rollback"
    return admin.post(path).status  # type: ignore[attr-defined]


def correct_status(app: object, seed: int) -> int | None:
    return app.predict("animals", make_jpeg(seed)).status  # type: ignore[attr-defined]


def refuse_in_the_end(call: Callable[[], int | None], most: int = 2000) -> None:
    for _ in range(most):
        status = call()
        if status in AWAY:
            return
        assert status in (200, 409), status
    raise AssertionError("the disk was never full")

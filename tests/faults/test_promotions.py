"""Promotion under attack: broken files, failing system calls, kills at each step, two at once, swaps."""

import os
import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest
from sqlalchemy import func, select

from backtalk import promotion, upkeep, verification
from backtalk.callers import Caller
from backtalk.errors import ArtefactInvalid
from backtalk.live import LiveVersions
from backtalk.loading import Loader
from backtalk.states import RunKind, RunState, Scope, VersionState
from backtalk.system import System
from backtalk.tables import Model, Run, Version
from tests.faults.lessons import add_candidate, armed, get_model, reload
from tests.faults.rig import ROOT, Rig, skip_without
from tests.served import make_jpeg

ALICE = Caller("user:alice", "alice", frozenset({Scope.PROMOTE}))

PROMOTE = """
import sys
from backtalk import bootstrap, promotion
from backtalk.config import Settings
promotion.promote_run(bootstrap.build(Settings.load()), sys.argv[1])
"""


def promote_apart(
    rig: Rig, run: Run, failpoints: str | None = None, before: tuple[str, ...] = ()
) -> "subprocess.CompletedProcess[str]":
    """`promote_run` in a process of its own, which may die of it."""
    env = rig.environment(failpoints) | {"PYTHONDONTWRITEBYTECODE": "1"}
    return subprocess.run(
        [*before, sys.executable, "-c", PROMOTE, str(run.id)],
        env=env, cwd=ROOT, capture_output=True, text=True, check=False,
    )  # fmt: skip


def end_lease(system: System, run: Run) -> None:
    """As if time had passed."""
    with system.db.transaction() as session:
        session.get_one(Run, run.id).lease_until = func.now() - func.make_interval(0, 0, 0, 0, 0, 0, 1)


def list_problems(system: System) -> list[str]:
    """Of everything that a person can verify but models.config, which upkeep mends."""
    return [f"{f.subject}: {f.problem}" for f in verification.verify(system) if f.problem and f.model != "*"
            and f.subject != "models.config"]  # fmt: skip


# --- killed at each step -----------------------------------------------------------------------------
STEPS = (
    "promotion.after_claim", "store.before_rename", "store.after_rename", "store.published",
    "promotion.before_swap", "promotion.after_swap", "ledger.before_entry", "ledger.after_entry",
    "promotion.before_commit", "promotion.after_commit", "config.before_write", "files.before_rename",
    "files.after_rename", "config.after_write",
)  # fmt: skip
QUICK = {"store.after_rename", "promotion.after_commit"}


@pytest.mark.parametrize(
    "step", [s if s in QUICK else pytest.param(s, marks=pytest.mark.slow) for s in STEPS]
)
@pytest.mark.fault(row=1, only="promotion and rollback")
def test_a_promotion_killed_at_any_step_is_whole_or_not_there_and_ends_well(rig: Rig, step: str) -> None:
    system = rig.use("served").system
    run = add_candidate(system, 2)
    assert promote_apart(rig, run, f"{step}=kill").returncode == -signal.SIGKILL
    assert list_problems(system) == []
    assert get_model(system).live_version in (1, 2)
    if reload(system, run).state == RunState.PROMOTING:
        end_lease(system, run)
        promotion.promote_run(system, str(run.id))
    assert reload(system, run).state == RunState.PROMOTED
    assert get_model(system).live_version == 2
    assert rig.check() == {}


# --- system calls that fail --------------------------------------------------------------------------
@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.fault(row=15)
def test_whichever_write_sync_or_rename_of_a_promotion_fails_it_is_whole_or_not_there(rig: Rig) -> None:
    strace = skip_without("strace", "strace")
    probe = subprocess.run([strace, "-f", "true"], capture_output=True, text=True, check=False)
    if probe.returncode != 0:
        pytest.skip(f"processes may not be traced here: {probe.stderr.strip().splitlines()[-1]}")
    system = rig.use("served").system
    tried, number = 0, 2
    for call in ("rename", "fsync", "write"):
        for nth in range(1, 40):
            run = add_candidate(system, number)
            inject = ("-f", "-q", "--seccomp-bpf", "-o", str(rig.folder / "trace"),
                      "-e", f"trace={call}", "-e", f"inject={call}:error=EIO:when={nth}")  # fmt: skip
            promote_apart(rig, run, before=(strace, *inject))
            injected = "(INJECTED)" in (rig.folder / "trace").read_text()
            assert list_problems(system) == [], (call, nth)
            end_lease_if_waiting(system, run)
            promotion.promote_run(system, str(run.id))
            assert reload(system, run).state == RunState.PROMOTED, (call, nth)
            number += 1
            if not injected:
                break
            tried += 1
        assert nth > 1, f"no {call} was seen"
    rig.tried(tried)
    assert rig.check() == {}


def end_lease_if_waiting(system: System, run: Run) -> None:
    if reload(system, run).state == RunState.PROMOTING:
        end_lease(system, run)


# --- damaged files -----------------------------------------------------------------------------------
def flip(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(bytes(data))


def truncate(path: Path) -> None:
    os.truncate(path, path.stat().st_size - 1)


@pytest.mark.parametrize("template", ["served", pytest.param("digits", marks=pytest.mark.slow)])
@pytest.mark.fault(row=16)
def test_a_damaged_file_is_refused_at_promotion_and_at_load_and_the_old_version_serves(
    rig: Rig, template: str
) -> None:
    system = rig.use(template).system
    live = LiveVersions(system.db, Loader(system.versions, 1), 0.1)
    live.refresh()
    name, number, tried = get_model(system).name, 2, 0
    original = system.versions.resolve(f"{name}/1")
    files = [p.relative_to(original) for p in sorted(original.rglob("*")) if p.is_file() and p.stat().st_size]
    for file in files:
        for damage in (flip, truncate):
            run = add_candidate(system, number, files_of=1)
            damage(system.versions.resolve(path_of(system, number)) / file)
            with pytest.raises(ArtefactInvalid):
                promotion.promote_version(system, model_name=name, number=number, caller=ALICE)
            promotion.promote_run(system, str(run.id))
            assert reload(system, run).state == RunState.FAILED, file
            assert state_of(system, number) == VersionState.QUARANTINED
            number, tried = number + 1, tried + 1
    run = add_candidate(system, number, files_of=1)
    promotion.promote_run(system, str(run.id))
    published = system.versions.resolve(f"{name}/{number}")
    for file in files:
        for damage in (flip, truncate):
            whole = (published / file).read_bytes()
            damage(published / file)
            fresh = LiveVersions(system.db, Loader(system.versions, 1), 0.1)
            fresh._slots = dict(live._slots)
            fresh.refresh()
            (published / file).write_bytes(whole)
            [state] = fresh.states()
            assert (state.version, state.wanted_version) == (1, number), file
            assert state.error is not None
            assert "does not load" in state.error
            tried += 1
    live.refresh()
    assert live.get_version(name).number == number
    live.close()
    rig.tried(tried)
    assert rig.check() == {}


def path_of(system: System, number: int) -> str:
    with system.db.reading() as session:
        return session.scalars(select(Version.path).where(Version.number == number)).one()


def state_of(system: System, number: int) -> str:
    with system.db.reading() as session:
        return session.scalars(select(Version.state).where(Version.number == number)).one()


@pytest.mark.fault(row=17, tries=6)
def test_half_written_versions_stray_folders_and_links_are_ignored_and_swept(
    rig: Rig, tmp_path: Path
) -> None:
    system = rig.use("served").system
    root = system.versions.root / "animals"
    run = add_candidate(system, 2)
    (tmp_path / "precious").write_text("not ours")
    strays = [root / "7", root / "8", root / "9", root / ".candidates" / "01930000-half-1", root / ".gone-1",
              system.versions.root / ".jobs" / "x"]  # fmt: skip
    for folder in (strays[0], *strays[3:]):
        folder.mkdir(parents=True)
        (folder / "head.npz").write_bytes(b"half")
    strays[1].symlink_to(tmp_path)
    strays[2].write_text("a file")
    live = LiveVersions(system.db, Loader(system.versions, 1), 0.1)
    live.refresh()
    assert live.get_version("animals").number == 1
    promotion.promote_run(system, str(run.id))
    live.refresh()
    assert live.get_version("animals").number == 2
    live.close()
    upkeep.sweep(system)  # they may belong to work that is going on
    assert all(path.exists() or path.is_symlink() for path in strays)
    for path in strays:
        os.utime(path, (0, 0), follow_symlinks=False)
    upkeep.sweep(system)
    assert [path for path in strays if path.exists() or path.is_symlink()] == []
    assert (tmp_path / "precious").read_text() == "not ours"
    assert rig.check() == {}


# --- two at once, and a swap under load --------------------------------------------------------------
@pytest.mark.fault(row=20)
def test_of_two_candidates_promoted_at_once_one_wins_and_the_other_is_judged_again(rig: Rig) -> None:
    system = rig.use("served").system
    runs = [add_candidate(system, 2), add_candidate(system, 3, kind=RunKind.FULL)]
    with armed("promotion.before_swap=sleep:0.3"):
        threads = [threading.Thread(target=promotion.promote_run, args=(system, str(r.id))) for r in runs]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    states = sorted(reload(system, run).state for run in runs)
    assert states == [RunState.JUDGING, RunState.PROMOTED]
    loser = next(run for run in runs if reload(system, run).state == RunState.JUDGING)
    promotion.judge_run(system, str(loser.id))
    again = reload(system, loser)
    assert again.state in (RunState.REJECTED, RunState.INCONCLUSIVE)  # there is no holdout to speak for it
    assert again.judged_generation == 2
    assert not system.versions.resolve(f"animals/{loser.version}").exists()
    assert rig.check() == {}


@pytest.mark.slow
@pytest.mark.fault(row=27)
def test_a_version_that_one_process_cannot_load_leaves_its_old_one_serving_under_load(rig: Rig) -> None:
    rig.use("served")
    rig.start("api")
    sick = rig.start_second_api(failpoints="loading.before_sums=raise@2+")
    callers = [rig.caller("predict"), rig.caller("predict", address=sick)]
    stop = threading.Event()

    def load(caller: object, seed: int) -> None:
        while not stop.is_set():
            caller.predict("animals", make_jpeg(seed))  # type: ignore[attr-defined]
            seed += 2

    threads = [threading.Thread(target=load, args=(c, i)) for i, c in enumerate(callers)]
    for thread in threads:
        thread.start()
    admin = rig.caller()
    try:
        assert admin.post("/v1/models/animals/versions/2:promote").status == 200
        rig.wait_for(lambda: 2 in versions_seen(rig, 0))
        ready = rig.wait_for(lambda: find_degraded(sick))
    finally:
        stop.set()
        for thread in threads:
            thread.join()
    assert "does not load" in ready
    said = rig.history.of("predict")
    assert {operation.status for operation in said} == {200}
    late = [o for o in said if o.began_at > said[-1].began_at - 0.5]
    assert {int(o.answer["version"]) for o in late} == {1, 2}
    assert rig.check() == {}


def versions_seen(rig: Rig, _port: int) -> set[int]:
    return {int(o.answer["version"]) for o in rig.history.acknowledged("predict")}


def find_degraded(address: str) -> str | None:
    import httpx

    answer = httpx.get(f"{address}/readyz", timeout=5)
    assert answer.status_code == 200  # some verified version is in service
    return answer.text if "does not load" in answer.text else None


def test_a_person_s_promotion_checks_the_row_s_lock_too(rig: Rig) -> None:
    """Two people at once: both changes are in the chain, one after the other."""
    system = rig.use("served").system
    add_candidate(system, 3, state=RunState.PASSED)
    threads = [
        threading.Thread(target=promotion.promote_version, args=(system,),
                         kwargs={"model_name": "animals", "number": n, "caller": ALICE}) for n in (2, 3)
    ]  # fmt: skip
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    with system.db.reading() as session:
        assert session.scalars(select(Model.generation)).one() == 3
    assert rig.check() == {}


@pytest.mark.fault(row=1, only="promotion and rollback")
@pytest.mark.parametrize("step", ["rollback.before_commit", "rollback.after_commit"])
def test_a_rollback_that_breaks_off_is_whole_or_not_there(rig: Rig, step: str) -> None:
    from backtalk.failpoints import FailpointRaised

    system = rig.use("served").system
    promotion.promote_run(system, str(add_candidate(system, 2).id))
    with armed(f"{step}=raise", rig.hits), pytest.raises(FailpointRaised):
        promotion.rollback_model(system, model_name="animals", caller=ALICE)
    assert get_model(system).live_version == (2 if step == "rollback.before_commit" else 1)
    assert rig.check() == {}

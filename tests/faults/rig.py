"""The rig: Backtalk's processes one by one, on real Postgres and Redis, to be killed and looked at.

    @pytest.mark.slow                                   # if it takes more than some 5 s
    @pytest.mark.fault(row=5, tries=1)                  # the row of the matrix that it covers
    def test_redis_away_under_load_costs_nobody_an_answer(rig: Rig) -> None:
        rig.use("served")                               # two versions with random heads: no TensorFlow
        rig.start("api", failpoints="recording.after_commit=kill@3")
        app = rig.caller("predict", "feedback")         # its calls are recorded in rig.history
        answer = app.predict("animals", make_jpeg(1))   # an Operation: .status .id .answer .error
        rig["api"].wait()                               # …
        rig.start("api")                                # again, on the same address, without failpoints
        assert rig.check() == {}                        # invariants I1–I10; what is broken, by name

What there is:

- `rig.use(template, lease_s="1.5", …)`: an own database and own folders, copied from a template that is made
  once a session: `"empty"`, `"served"` (model `animals`, labels cat, dog, owl: versions 1 and 2, the first
  live; fast) or `"digits"` (model `digits`: created by the command line with a real trainer and the tiny
  backbone; some 15 s once, for rows that train). Call it before anything else.
- `rig.start(name, failpoints=…, env={…}, database_url=…, redis_url=…)`: a process of `embedded.commands()`:
  `api` (waits until it is ready), `events`, `training-head`, `beat`, `relay`; `label=` tells twins apart.
  Returns a `Part`: `.pid .kill() .stop() .go_on() .terminate() .wait() .said() .below()`; `rig[label]` is it
  again. `command=` starts something else, say under faketime.
- `rig.servers.postgres`, `rig.servers.redis`: `.restart()`, `.kill()`, `.stop()` (SIGSTOP), `.go_on()`,
  `.shut_down()`, `.start()`; `redis.flush()`, `redis.client()`. Both live as long as the session and are
  mended, if a test left them broken, before the next one begins.
- `rig.proxy("redis")`, `rig.proxy("postgres")`: a `Proxy` before the server; give its `url` to `start`:
  `rig.start("relay", redis_url=rig.proxy_url("redis"))`.
- `rig.system`: the joined parts, in the test's own process, for reading rows and running use cases directly.
- `rig.wait_for(find, patience_s)`: until `find()` is true; starts again what has died (without its
  failpoints) if `rig.revives` is set, as a supervisor would.
- `rig.settle()`: waits until no run is active and the outbox is empty.
- `rig.check(…)`: waits for nothing; runs the checker, notes what held for the table.

Settings are short (`SETTINGS`), so that leases run out within seconds.
"""

import os
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import httpx
import psutil
import pytest
from sqlalchemy import func, select

from backtalk import bootstrap, failpoints, identity
from backtalk.children import start_child
from backtalk.config import Settings
from backtalk.embedded import commands
from backtalk.servers import free_port
from backtalk.states import ACTIVE_RUN_STATES, Scope
from backtalk.system import System
from backtalk.tables import OutboxEvent, Run
from tests.faults import checker
from tests.faults.grounds import Grounds
from tests.faults.history import Caller, History
from tests.faults.proxy import Proxy
from tests.faults.servers import Servers

T = TypeVar("T")
ROOT = Path(__file__).parents[2]

SETTINGS = {
    "BACKTALK_LEASE_S": "3",
    "BACKTALK_POLL_S": "0.2",
    "BACKTALK_WARM_TRAINER": "false",
    "BACKTALK_INFERENCE_THREADS": "2",
    "BACKTALK_WORKER_GRACE_S": "5",
    "BACKTALK_FEEDBACK_PER_MINUTE": "100000",
    "PYTHONUNBUFFERED": "1",
    "REMAP_SIGTERM": "SIGQUIT",
}


class Part:
    """One process of ours and what lies below it."""

    def __init__(self, name: str, command: list[str], env: dict[str, str], log: Path) -> None:
        self.name = name
        self.command = command
        self.env = env
        self.log = log
        with log.open("ab") as sink:
            # A child of the thread that runs the tests: killed with it, whatever happens.
            self.process: subprocess.Popen[bytes] = start_child(
                command, death_signal=signal.SIGKILL, env=env, output=sink, cwd=ROOT
            )

    @property
    def pid(self) -> int:
        return self.process.pid

    @property
    def alive(self) -> bool:
        return self.process.poll() is None

    def below(self, word: str = "") -> list[psutil.Process]:
        """Living processes below this one whose command line holds `word`."""
        try:
            children = psutil.Process(self.pid).children(recursive=True)
        except psutil.NoSuchProcess:
            return []
        return [child for child in children if word in _command_line(child)]

    def kill(self) -> None:
        """SIGKILL to the process alone, not to what lies below it."""
        self.process.kill()
        self.process.wait()

    def stop(self) -> None:
        self.process.send_signal(signal.SIGSTOP)

    def go_on(self) -> None:
        self.process.send_signal(signal.SIGCONT)

    def terminate(self) -> None:
        self.process.terminate()

    def wait(self, timeout_s: float = 60.0) -> int:
        """Until it ends; its status, negative where a signal ended it."""
        return self.process.wait(timeout_s)

    def said(self) -> str:
        return self.log.read_text(errors="replace")

    def end(self) -> None:
        """At once, with everything below."""
        left = self.below()
        with_group = [self.process.pid, *(child.pid for child in left)]
        for pid in with_group:
            for kill in (os.killpg, os.kill):
                try:
                    kill(pid, signal.SIGKILL)
                except (ProcessLookupError, PermissionError):
                    continue
        self.process.wait()


class Rig:
    """See the top of the file."""

    def __init__(self, grounds: Grounds, servers: Servers, folder: Path, request: Any) -> None:
        self.servers = servers
        self.folder = folder
        self.history = History()
        self.revives = False
        self.hits = folder / "hits"
        self.parts: dict[str, Part] = {}
        self._grounds = grounds
        self._request = request
        self._proxies: dict[str, Proxy] = {}
        self._callers: list[Caller] = []
        self._system: System | None = None
        self._port = free_port()

    # --- the ground ------------------------------------------------------------------------------
    def use(self, template: str = "empty", **settings: str) -> "Rig":
        """Lay the ground; `settings` (`BACKTALK_…` in small letters, without that) go over `SETTINGS`."""
        self.servers.mend()
        self.servers.redis.flush()
        self.database_url = self._grounds.copy(template, self.folder)
        own = {f"BACKTALK_{name.upper()}": value for name, value in settings.items()}
        self.settings_env = SETTINGS | own | {"BACKTALK_FAILPOINT_LOG": str(self.hits)}
        values = {
            k.removeprefix("BACKTALK_").lower(): v for k, v in self.settings_env.items() if "BACKTALK" in k
        }
        self.settings = Settings.load(
            **values, home=self.folder, database_url=self.database_url, redis_url=self.servers.redis.url
        )
        return self

    @property
    def system(self) -> System:
        if self._system is None:
            self._system = bootstrap.build(self.settings, pool_size=10)
        return self._system

    # --- processes -------------------------------------------------------------------------------
    def start(
        self,
        name: str,
        *,
        label: str | None = None,
        failpoints: str | None = None,
        env: dict[str, str] | None = None,
        database_url: str | None = None,
        redis_url: str | None = None,
        command: list[str] | None = None,
    ) -> Part:
        """Start a process, in place of one of the same label; `api` is ready on return."""
        part = self.start_part(
            name, label or name, failpoints=failpoints, env=env,
            database_url=database_url, redis_url=redis_url, command=command,
        )  # fmt: skip
        if name == "api":
            self.wait_for(self.is_ready, 60, watch=[part])
        return part

    def start_part(
        self,
        name: str,
        label: str,
        *,
        failpoints: str | None = None,
        env: dict[str, str] | None = None,
        database_url: str | None = None,
        redis_url: str | None = None,
        command: list[str] | None = None,
    ) -> Part:
        """As `start`, and waits for nothing."""
        if (before := self.parts.pop(label, None)) is not None:
            before.end()
        part = Part(
            label,
            command or _name_apart(commands()[name], name, label),
            self.environment(failpoints, database_url, redis_url) | (env or {}),
            self.folder / f"{label}.log",
        )
        self.parts[label] = part
        return part

    def start_second_api(self, **options: Any) -> str:
        """Another API process on a port of its own; returns its address when it is ready."""
        port = free_port()
        address = f"http://127.0.0.1:{port}"
        part = self.start_part("api", "api-2", env={"BACKTALK_API_PORT": str(port)}, **options)
        self.wait_for(lambda: self.is_ready(address), 60, watch=[part])
        return address

    def start_all(self, *names: str, **options: Any) -> None:
        for name in names or ("api", "relay", "beat", "events", "training-head"):
            self.start(name, **options)

    def __getitem__(self, label: str) -> Part:
        return self.parts[label]

    @property
    def address(self) -> str:
        return f"http://127.0.0.1:{self._port}"

    def is_ready(self, address: str | None = None) -> bool:
        try:
            return httpx.get(f"{address or self.address}/readyz", timeout=5).status_code == 200
        except httpx.HTTPError:
            return False

    def revive(self) -> None:
        """Start again, without failpoints, what has died."""
        for label, part in list(self.parts.items()):
            if not part.alive:
                part.end()  # what it left running must not meet its successor
                env = {k: v for k, v in part.env.items() if k != "BACKTALK_FAILPOINTS" or "@once" in v}
                self.parts[label] = Part(label, part.command, env, part.log)

    def environment(
        self, failpoints: str | None = None, database: str | None = None, redis: str | None = None
    ) -> dict[str, str]:
        """What a process of this rig gets to see."""
        ours = {name: value for name, value in os.environ.items() if not name.startswith("BACKTALK_")}
        ours |= self.settings_env | {
            "BACKTALK_HOME": str(self.folder),
            "BACKTALK_DATABASE_URL": database or self.database_url,
            "BACKTALK_REDIS_URL": redis or self.servers.redis.url,
            "BACKTALK_API_PORT": str(self._port),
            "PYTHONPATH": str(ROOT),
        }
        return ours | ({"BACKTALK_FAILPOINTS": failpoints} if failpoints else {})

    # --- the network -----------------------------------------------------------------------------
    def proxy(self, server: str) -> Proxy:
        """One proxy before `postgres` or `redis`, made at the first call."""
        if server not in self._proxies:
            self._proxies[server] = Proxy(self.servers.target(server))
        return self._proxies[server]

    def proxy_url(self, server: str) -> str:
        port = self.proxy(server).port
        if server == "redis":
            return self.servers.redis.url_through(port)
        return self.servers.postgres.url_through(port, self.database_url)

    # --- clients ---------------------------------------------------------------------------------
    def caller(self, *scopes: str, name: str = "app", address: str | None = None, **values: Any) -> Caller:
        """A client with a key of its own; its calls are recorded."""
        with self.system.db.transaction() as session:
            key = identity.create_key(session, name=name, scopes=scopes or [str(s) for s in Scope])
        self._callers.append(Caller(self.history, address or self.address, key, **values))
        return self._callers[-1]

    # --- waiting and checking --------------------------------------------------------------------
    def wait_for(
        self, find: Callable[[], T | None], patience_s: float = 60.0, *, watch: list[Part] | None = None
    ) -> T:
        """What `find` finds, as soon as it does. Fails when a process in `watch` ends first."""
        deadline = time.monotonic() + patience_s
        while not (found := find()):
            for part in watch or ():
                assert part.alive, f"{part.name} ended with {part.process.returncode}:\n{part.said()[-3000:]}"
            assert time.monotonic() < deadline, f"not in {patience_s:.0f} s.\n{self.describe()}"
            if self.revives:
                self.revive()
            time.sleep(0.05)
        return found

    def settle(self, patience_s: float = 90.0) -> None:
        """Until no run is active and no event waits for the relay."""
        self.wait_for(self._is_quiet, patience_s)

    def _is_quiet(self) -> bool:
        with self.system.db.reading() as session:
            active = select(func.count()).select_from(Run).where(Run.state.in_(ACTIVE_RUN_STATES))
            waiting = select(func.count()).where(OutboxEvent.published_at.is_(None))
            return not session.scalar(active) and not session.scalar(waiting)

    def check(self, *names: str, **values: Any) -> dict[str, list[str]]:
        """Run the checker over all invariants (or `names`); what is broken, empty if nothing is."""
        found = checker.check(
            checker.Scene(self.system, self.history, **values), names or tuple(checker.INVARIANTS)
        )
        properties = self._request.node.user_properties
        earlier = dict(properties).get("held", [])
        properties.append(("held", [*earlier, *(n for n, said in found.items() if not said)]))
        properties.append(("broken", [name for name, said in found.items() if said]))
        return {name: said for name, said in found.items() if said}

    def tried(self, times: int) -> None:
        """How often the fault was done, for the table."""
        self._request.node.user_properties.append(("tries", times))

    def hit_names(self) -> list[str]:
        """Failpoints that were hit so far, in order, by all processes."""
        if not self.hits.exists():
            return []
        return [line.split()[0] for line in self.hits.read_text().splitlines()]

    def describe(self) -> str:
        """The last words of every process, for a test that failed."""
        words = [f"--- {p.name} ({p.process.poll()})\n{p.said()[-1500:]}" for p in self.parts.values()]
        return "\n".join(words)

    def close(self) -> None:
        for part in self.parts.values():
            part.end()
        for caller in self._callers:
            caller.close()
        for proxy in self._proxies.values():
            proxy.close()
        if self._system is not None:
            self._system.close()
        failpoints.arm(None)


def _name_apart(command: list[str], name: str, label: str) -> list[str]:
    """Two Celery workers of one role need names of their own."""
    if name == label:
        return command
    return [word.replace(f"{name}@", f"{label}@") for word in command]


def _command_line(process: psutil.Process) -> str:
    try:
        return " ".join(process.cmdline())
    except psutil.Error:
        return ""


def skip_without(program: str, package: str) -> str:
    """The path of a program that a row needs; skips the test, with the reason, where it is not installed."""
    import shutil

    found = shutil.which(program)
    if found is None:
        pytest.skip(f"needs {program}: apt-get install {package}")
    return found

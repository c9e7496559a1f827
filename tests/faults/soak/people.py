"""Those who use Backtalk during a soak: threads that each do the next thing that a seeded draw says."""

import random
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import count

from tests.faults.history import Operation, until_acknowledged
from tests.faults.rig import Rig
from tests.served import make_jpeg

MODEL = "digits"
OTHER = {"zero": "one", "one": "zero"}
#: How often each is drawn, of 1,000.
SHARES = {"predict": 500, "correct": 250, "confirm": 100, "decide": 100, "train": 10, "promote": 10,
          "rollback": 5, "lift": 10, "delete": 15}  # fmt: skip
PATIENCE_S = 90.0
#: A server may stand still for some seconds, and a client may have to wait for that long.
TIMEOUT_S = 25.0


class Crowd:
    """What its members share: keys, and answers that nobody has spoken of yet. They can be held."""

    def __init__(self, rig: Rig, seed: int, members: int) -> None:
        self.app = rig.caller("predict", "feedback", name="app", timeout_s=TIMEOUT_S)
        self.admin = rig.caller(name="admin", timeout_s=TIMEOUT_S)
        self.pictures = count()
        self.failed: list[BaseException] = []
        self._stopping = threading.Event()
        self._going = threading.Event()
        self._members = [Member(self, f"{seed}-{number}") for number in range(members)]
        self._idle: set[Member] = set()
        self._threads = [threading.Thread(target=self._run, args=(m,), daemon=True) for m in self._members]

    def _run(self, member: "Member") -> None:
        while True:
            if not self._going.is_set():
                self._idle.add(member)
                self._going.wait()
                self._idle.discard(member)
            if self._stopping.is_set():
                return
            try:
                member.act()
            except BaseException as error:  # noqa: BLE001  # told when the soak ends
                self.failed.append(error)
            self._stopping.wait(0.05)

    def go_on(self) -> None:
        self._going.set()
        for thread in self._threads:
            if thread.ident is None:
                thread.start()

    def hold(self) -> None:
        """Nobody begins anything; calls under way go on, and are repeated until they are answered."""
        self._going.clear()

    @property
    def is_idle(self) -> bool:
        """Whether nobody has a call under way."""
        return not self._going.is_set() and len(self._idle) == len(self._members)

    def stop(self) -> None:
        self._stopping.set()
        self._going.set()
        for thread in self._threads:
            if thread.ident is not None:
                thread.join(2 * PATIENCE_S)


class Member:
    """One of the crowd; careful, so it repeats what was not answered, with the same Idempotency-Key."""

    def __init__(self, crowd: Crowd, seed: str) -> None:
        self._crowd = crowd
        self._draw = random.Random(seed)
        self._unspoken: list[Operation] = []
        self._corrected: list[str] = []
        self._seed, self._numbers = seed, count()

    def act(self) -> None:
        kind = self._draw.choices(list(SHARES), list(SHARES.values()))[0]
        getattr(self, f"_{kind}")()

    def _key(self) -> str:
        return f"{self._seed}-{next(self._numbers)}"

    def _predict(self) -> None:
        picture = make_jpeg(next(self._crowd.pictures))
        answer = _repeat(lambda: self._crowd.app.predict(MODEL, picture))
        if answer.status == 200:
            self._unspoken.append(answer)

    def _take(self) -> Operation | None:
        if not self._unspoken:
            self._predict()
        return self._unspoken.pop(self._draw.randrange(len(self._unspoken))) if self._unspoken else None

    def _correct(self) -> None:
        if (answer := self._take()) is not None:
            key, label = self._key(), OTHER[answer.answer["predictions"][0]["label"]]
            made = _repeat(lambda: self._crowd.app.correct(str(answer.id), label, key=key))
            self._corrected += [str(made.id)] if made.status == 201 else []

    def _confirm(self) -> None:
        if (answer := self._take()) is not None:
            key = self._key()
            _repeat(lambda: self._crowd.app.confirm(str(answer.id), key=key))

    def _decide(self) -> None:
        for item in self._crowd.admin.lease(MODEL, limit=5):
            action = self._draw.choice(["approve", "approve", "approve", "reject", "skip"])
            _repeat(lambda item=item, action=action: self._crowd.admin.decide(item, action))

    def _train(self) -> None:
        self._crowd.admin.train(MODEL)

    def _promote(self) -> None:
        listed = self._crowd.admin.get(f"/v1/models/{MODEL}/versions").answer.get("items", [])
        if listed:
            number = self._draw.choice(listed)["number"]
            self._crowd.admin.post(f"/v1/models/{MODEL}/versions/{number}:promote", kind="promote")

    def _rollback(self) -> None:
        self._crowd.admin.post(f"/v1/models/{MODEL}:rollback", kind="rollback")

    def _lift(self) -> None:
        path = f"/v1/models/{MODEL}/policy"
        self._crowd.admin.call("policy", "PUT", path, {}, json=POLICY | {"hold": False})

    def _delete(self) -> None:
        if self._corrected:
            receipt = self._crowd.admin.get(f"/v1/corrections/{self._corrected.pop()}")
            if (image := receipt.answer.get("image")) is not None:
                _repeat(lambda: self._crowd.admin.call("delete", "DELETE", f"/v1/images/{image}", {}))


#: So that runs follow from what is decided, within minutes.
POLICY = {"review": "required", "audit_share": 0.05, "min_approved": 15, "debounce_s": 0, "cooldown_s": 5,
          "max_runs_per_day": 1000, "nightly": None}  # fmt: skip


def _repeat(call: Callable[[], Operation]) -> Operation:
    return until_acknowledged(call, PATIENCE_S)


@contextmanager
def crowd_of(rig: Rig, seed: int, members: int) -> Iterator[Crowd]:
    crowd = Crowd(rig, seed, members)
    assert crowd.admin.call("policy", "PUT", f"/v1/models/{MODEL}/policy", {}, json=POLICY).status == 200
    try:
        yield crowd
    finally:
        crowd.stop()

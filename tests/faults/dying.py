"""A Celery worker that is killed once, between taking a message and noting that it has it.

    python -m tests.faults.dying MARK -A workers.app worker …

kombu takes a message with BRPOP and notes it with ZADD and HSET afterwards; here SIGKILL comes in between,
for the first message that names a task. MARK is a file that is made at that moment; where it is there
already, nothing happens.
"""

import os
import signal
import sys
from pathlib import Path
from typing import Any

from celery.__main__ import main
from kombu.transport.redis import QoS


def die_before_noting(mark: Path) -> None:
    append = QoS.append

    def die_or_append(self: Any, message: Any, tag: str) -> None:
        if "task" in message.headers and not mark.exists():
            mark.write_text(message.headers["task"])
            os.kill(os.getpid(), signal.SIGKILL)
        append(self, message, tag)

    QoS.append = die_or_append


if __name__ == "__main__":
    die_before_noting(Path(sys.argv.pop(1)))
    main()

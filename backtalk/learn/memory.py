"""How much memory this process uses, in megabytes."""

import resource
import sys
from pathlib import Path


def read_memory_mb(*, peak: bool = False) -> int:
    """Without pages of mapped files, which the kernel drops when it needs the room; `peak` has those too."""
    if peak or sys.platform != "linux":
        size = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        return int(size // (1024 if sys.platform == "linux" else 2**20))
    for line in Path("/proc/self/status").read_text(encoding="ascii").splitlines():
        if line.startswith("RssAnon:"):
            return int(line.split()[1]) // 1024
    return 0

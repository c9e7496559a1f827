"""Writes the lock files from pyproject.toml. `make lock`.

Each is for one kind of process; all take their versions from dev.txt, which has everything for one machine.
"""

import subprocess
import sys
from pathlib import Path

FOLDER = Path(__file__).parent
UV = Path(sys.executable).parent / "uv"
EXTRAS = {
    "api": ["api"],
    "worker": ["workers"],
    "train": ["workers", "train", "weights"],
}
OPTIONS = ["--quiet", "--universal", "--python-version", "3.11", "--generate-hashes", "--no-emit-index-url"]


def compile_lock(name: str, *arguments: str) -> None:
    """Resolve into requirements/<name>.txt; pins that are there already are kept unless told otherwise."""
    command = [str(UV), "pip", "compile", *OPTIONS, "--custom-compile-command", "make lock"]
    subprocess.run(
        [*command, *arguments, "--output-file", f"requirements/{name}.txt", "pyproject.toml"],
        check=True,
        cwd=FOLDER.parent,
    )


def main() -> None:
    upgrade = sys.argv[1:]
    compile_lock("dev", "--all-extras", *upgrade)
    for name, extras in EXTRAS.items():
        chosen = [word for extra in extras for word in ("--extra", extra)]
        compile_lock(name, *chosen, "--constraint", "requirements/dev.txt", *upgrade)


if __name__ == "__main__":
    main()

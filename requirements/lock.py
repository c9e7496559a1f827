"""Writes the lock files from pyproject.toml. `make lock`.

Each is for one kind of process; all take their versions from dev.txt, which has everything for one machine.
"""

import subprocess
import sys
import tomllib
from pathlib import Path

FOLDER = Path(__file__).parent
UV = Path(sys.executable).parent / "uv"
EXTRAS = {
    "api": ["api"],
    "worker": ["workers"],
    "train": ["workers", "train", "weights"],
    "mlflow": ["workers", "mlflow"],
}
#: Not for every installation: larger weights than the default needs.
OPTIONAL = {"weights-lite": ["weights-lite"]}
OPTIONS = ["--quiet", "--universal", "--python-version", "3.11", "--generate-hashes", "--no-emit-index-url"]


def compile_lock(name: str, *arguments: str) -> None:
    """Resolve into requirements/<name>.txt; pins that are there already are kept unless told otherwise."""
    command = [str(UV), "pip", "compile", *OPTIONS, "--custom-compile-command", "make lock"]
    subprocess.run(
        [*command, *arguments, "--output-file", f"requirements/{name}.txt", "pyproject.toml"],
        check=True,
        cwd=FOLDER.parent,
    )


def _name(extras: list[str]) -> list[str]:
    return [word for extra in extras for word in ("--extra", extra)]


def main() -> None:
    upgrade = sys.argv[1:]
    project = tomllib.loads((FOLDER.parent / "pyproject.toml").read_text(encoding="utf-8"))
    everything = [extra for extra in project["project"]["optional-dependencies"] if extra not in OPTIONAL]
    compile_lock("dev", *_name(everything), *upgrade)
    for name, extras in (EXTRAS | OPTIONAL).items():
        compile_lock(name, *_name(extras), "--constraint", "requirements/dev.txt", *upgrade)


if __name__ == "__main__":
    main()

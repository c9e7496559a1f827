"""Copy what the pages take from npm into the repository, with licences and sums.

    npm ci && python scripts/vendor.py      # after a change of package.json
    python scripts/vendor.py --check        # do the files match their sums? (needs no npm)

The pages load nothing from elsewhere: these copies are what is served. What only tests need lies with them.
"""

import argparse
import hashlib
import shutil
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
SUMS = "SHA256SUMS"

#: By folder: from `node_modules` to the name there.
COPIES = {
    ROOT / "services" / "review" / "static" / "vendor": {
        "htmx.org/dist/htmx.min.js": "htmx.min.js",
        "htmx.org/LICENSE": "htmx.LICENSE.txt",
        "@fontsource-variable/inter/files/inter-latin-wght-normal.woff2": "inter-latin.woff2",
        "@fontsource-variable/inter/files/inter-latin-ext-wght-normal.woff2": "inter-latin-ext.woff2",
        "@fontsource-variable/inter/LICENSE": "inter.LICENSE.txt",
    },
    ROOT / "tests" / "vendor": {
        "axe-core/axe.min.js": "axe.min.js",
        "axe-core/LICENSE": "axe.LICENSE.txt",
        "axe-core/LICENSE-3RD-PARTY.txt": "axe.LICENSE-3RD-PARTY.txt",
    },
}


def copy_files(modules: Path) -> None:
    """Copy each file of `COPIES` and write the sums.

    Raises:
        FileNotFoundError: a package is not installed; run `npm ci` first.
    """
    for folder, copies in COPIES.items():
        folder.mkdir(parents=True, exist_ok=True)
        for source, target in copies.items():
            shutil.copyfile(modules / source, folder / target)
        lines = [f"{_sha256(folder / name)}  {name}\n" for name in sorted(copies.values())]
        (folder / SUMS).write_text("".join(lines), encoding="utf-8")


def find_differences() -> list[str]:
    """What lies in the folders and does not match the sums: a sentence each."""
    return [f"{folder.relative_to(ROOT)}: {said}" for folder in COPIES for said in _compare(folder)]


def _compare(folder: Path) -> list[str]:
    wanted = {}
    for line in (folder / SUMS).read_text(encoding="utf-8").splitlines():
        digest, name = line.split("  ", 1)
        wanted[name] = digest
    present = {path.name for path in folder.iterdir()} - {SUMS}
    said = [f"{name} has no line in SHA256SUMS" for name in sorted(present - wanted.keys())]
    said += [f"{name} is missing" for name in sorted(wanted.keys() - present)]
    said += [
        f"{name} differs from its sum"
        for name in sorted(present & wanted.keys())
        if _sha256(folder / name) != wanted[name]
    ]
    return said


def _sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--check", action="store_true", help="compare only")
    if not parser.parse_args().check:
        copy_files(ROOT / "node_modules")
    differences = find_differences()
    print("\n".join(differences) or "The files match their sums")
    return 1 if differences else 0


if __name__ == "__main__":
    sys.exit(main())

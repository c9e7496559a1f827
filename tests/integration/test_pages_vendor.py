"""What the pages take from elsewhere lies in the repository, unchanged and with its licence."""

import json
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]
VENDOR = ROOT / "services" / "review" / "static" / "vendor"


def test_vendored_files_match_their_sums():
    found = subprocess.run(
        [sys.executable, ROOT / "scripts" / "vendor.py", "--check"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert found.returncode == 0, found.stdout + found.stderr


def test_each_vendored_package_comes_with_its_licence():
    for package in ("htmx", "inter"):
        assert (VENDOR / f"{package}.LICENSE.txt").stat().st_size > 100
    assert "Mozilla Public License" in (ROOT / "tests" / "vendor" / "axe.LICENSE.txt").read_text()


def test_the_lock_pins_each_package_by_digest_and_names_no_host():
    text = (ROOT / "package-lock.json").read_text()
    wanted = json.loads((ROOT / "package.json").read_text())
    wanted = wanted["dependencies"] | wanted["devDependencies"]
    packages = {name: entry for name, entry in json.loads(text)["packages"].items() if name}
    assert {
        name.removeprefix("node_modules/"): entry["version"] for name, entry in packages.items()
    } == wanted
    assert all(entry["integrity"].startswith("sha512-") for entry in packages.values())
    assert "resolved" not in text


def test_no_asset_of_ours_loads_anything_from_another_host():
    static = ROOT / "services" / "review" / "static"
    ours = [*static.glob("*.css"), *static.glob("*.js")]
    assert len(ours) >= 8
    for path in ours:
        assert "http://" not in path.read_text(), path
        assert "https://" not in path.read_text(), path

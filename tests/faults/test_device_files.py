"""A file for devices whose maker is killed: it is whole or not there, and the next attempt makes it."""

import signal
import subprocess
import sys
from pathlib import Path

import pytest

from backtalk.devicebuild import digest_file
from tests.faults.rig import ROOT, Rig

STEPS = ("devicefile.before_sync", "devicefile.before_rename")

MAKE = """
import sys
from pathlib import Path
from backtalk import bootstrap, devicefiles
from backtalk.callers import CLI
from backtalk.config import Settings
from backtalk.states import DeviceForm
built = devicefiles.export_file(bootstrap.build(Settings.load()), model_name="digits", number=1,
                                form=DeviceForm.FLOAT32, out=Path(sys.argv[1]), caller=CLI)
print(built.sha256)
"""


@pytest.mark.slow
@pytest.mark.fault(row=15, tries=len(STEPS), only="files for devices")
def test_a_file_for_devices_is_whole_or_not_there_wherever_its_maker_dies(rig: Rig, tmp_path: Path) -> None:
    rig.use("digits")
    out = tmp_path / "digits.tflite"
    command = [sys.executable, "-c", MAKE, str(out)]
    for step in STEPS:
        ended = subprocess.run(command, env=rig.environment(f"{step}=kill"), cwd=ROOT, check=False)
        assert ended.returncode != 0, step
        assert not out.exists(), step
    assert ended.returncode == -signal.SIGKILL  # the last step is its own, not its trainer's
    made = subprocess.run(
        command, env=rig.environment(""), cwd=ROOT, check=True, stdout=subprocess.PIPE, text=True
    )
    assert digest_file(out) == made.stdout.split()[-1]
    assert set(STEPS) <= set(rig.hit_names())
    assert rig.check() == {}

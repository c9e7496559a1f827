"""Golden images come back as they were, or not at all."""

from pathlib import Path

import numpy as np
import pytest

from backtalk.errors import ArtefactInvalid
from backtalk.golden import read_golden, write_golden

INPUTS = np.arange(2 * 4 * 4 * 3, dtype=np.uint8).reshape(2, 4, 4, 3)


def test_inputs_and_files_come_back(tmp_path: Path) -> None:
    path = tmp_path / "model" / ".golden" / "golden.npz"
    write_golden(path, INPUTS, [b"one file", b""])
    golden = read_golden(path)
    assert np.array_equal(golden.inputs, INPUTS)
    assert golden.encoded == (b"one file", b"")


def test_a_file_for_each_input_is_needed(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="one file for each input"):
        write_golden(tmp_path / "golden.npz", INPUTS, [b"only one"])
    with pytest.raises(ValueError, match="at least one"):
        write_golden(tmp_path / "golden.npz", INPUTS[:0], [])


def test_a_missing_or_damaged_file_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "golden.npz"
    with pytest.raises(ArtefactInvalid):
        read_golden(path)
    write_golden(path, INPUTS, [b"a", b"b"])
    path.write_bytes(path.read_bytes()[:-30])
    with pytest.raises(ArtefactInvalid):
        read_golden(path)
    np.savez(path, inputs=INPUTS.astype(float), bytes_flat=np.zeros(2, np.uint8), offsets=np.arange(3))
    with pytest.raises(ArtefactInvalid):
        read_golden(path)

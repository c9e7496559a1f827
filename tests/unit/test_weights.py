"""The reader of legacy torch weights runs nothing that a file names."""

import pickle
from collections import OrderedDict
from pathlib import Path

import numpy as np
import pytest

from backtalk.errors import WeightsRefused
from backtalk.learn.weights import (
    MAGIC,
    PROTOCOL,
    get_lite_path,
    read_legacy_torch,
)


class _Named:
    """Pickles as a call of whatever is named."""

    def __init__(self, function: object, *arguments: object) -> None:
        self.call = (function, arguments)

    def __reduce__(self) -> tuple[object, tuple[object, ...]]:
        return self.call


def write(path: Path, *pickled: bytes, tail: bytes = b"") -> Path:
    head = [pickle.dumps(value, protocol=2) for value in (MAGIC, PROTOCOL, {"little_endian": True})]
    path.write_bytes(b"".join([*head, *pickled]) + tail)
    return path


def tensor(offset: int, shape: tuple[int, ...], strides: tuple[int, ...], count: int = 6) -> bytes:
    """One tensor `w` over a storage `s`, by hand: torch is not there to pickle it."""

    def number(value: int) -> bytes:
        return b"J" + value.to_bytes(4, "little", signed=True)

    def text(value: str) -> bytes:
        return b"X" + len(value.encode()).to_bytes(4, "little") + value.encode()

    def numbers(values: tuple[int, ...]) -> bytes:
        return b"(" + b"".join(map(number, values)) + b"t"

    storage = (
        b"(" + text("storage") + b"ctorch\nFloatStorage\n" + text("s") + text("cpu") + number(count) + b"NtQ"
    )
    arguments = b"(" + storage + number(offset) + numbers(shape) + numbers(strides) + b"\x89}t"
    return b"\x80\x02}" + text("w") + b"ctorch._utils\n_rebuild_tensor_v2\n" + arguments + b"Rs."


def values(count: int = 6) -> bytes:
    return (
        pickle.dumps(["s"], protocol=2)
        + count.to_bytes(8, "little")
        + np.arange(count, dtype="<f4").tobytes()
    )


def test_tensors_are_read_with_their_strides(tmp_path: Path) -> None:
    path = write(tmp_path / "w", tensor(0, (3, 2), (1, 3)), tail=values())
    assert read_legacy_torch(path)["w"].tolist() == [[0, 3], [1, 4], [2, 5]]


@pytest.mark.parametrize("function", [print, eval, Path.touch, getattr, np.zeros, OrderedDict.fromkeys])
def test_a_file_that_names_anything_else_is_refused(tmp_path: Path, function: object) -> None:
    path = write(tmp_path / "w", pickle.dumps({"w": _Named(function, "1")}, protocol=2))
    with pytest.raises(WeightsRefused):
        read_legacy_torch(path)


@pytest.mark.parametrize("place", range(4), ids=["magic", "protocol", "sizes", "tensors"])
def test_a_malicious_pickle_runs_nothing_wherever_it_stands(tmp_path: Path, place: int) -> None:
    witness = tmp_path / "was-run"
    parts = [pickle.dumps(value, protocol=2) for value in (MAGIC, PROTOCOL, {}, {})]
    parts[place] = pickle.dumps(_Named(Path.touch, witness), protocol=2)
    (tmp_path / "w").write_bytes(b"".join(parts))
    with pytest.raises(WeightsRefused, match="which has no place in weights"):
        read_legacy_torch(tmp_path / "w")
    assert not witness.exists()


@pytest.mark.parametrize(
    ("offset", "shape", "strides"),
    [
        (1, (3, 2), (1, 3)),
        (0, (7,), (1,)),
        (0, (2,), (100,)),
        (-1, (2,), (1,)),
        (0, (2,), (-1,)),
        (0, (2**30,), (0,)),
    ],
)
def test_a_tensor_beyond_its_storage_is_refused(
    tmp_path: Path, offset: int, shape: tuple[int, ...], strides: tuple[int, ...]
) -> None:
    path = write(tmp_path / "w", tensor(offset, shape, strides), tail=values())
    with pytest.raises(WeightsRefused):
        read_legacy_torch(path)


def test_more_values_than_the_file_can_hold_are_refused_before_memory_is_asked_for(tmp_path: Path) -> None:
    path = write(tmp_path / "w", tensor(0, (3,), (1,), count=2**31 - 1), tail=values())
    with pytest.raises(WeightsRefused, match="more values"):
        read_legacy_torch(path)


@pytest.mark.parametrize("keep", [0, 10, 60, -1, -30])
def test_a_truncated_file_is_refused(tmp_path: Path, keep: int) -> None:
    whole = write(tmp_path / "w", tensor(0, (3, 2), (1, 3)), tail=values()).read_bytes()
    (tmp_path / "w").write_bytes(whole[:keep])
    with pytest.raises(WeightsRefused):
        read_legacy_torch(tmp_path / "w")


def test_the_installed_weights_are_the_ones_that_their_name_promises() -> None:
    weights = read_legacy_torch(get_lite_path(0))
    assert weights["_conv_stem.weight"].shape == (32, 3, 3, 3)
    assert weights["_fc.weight"].shape == (1000, 1280)
    assert (
        sum(w.size for name, w in weights.items() if "running" not in name and "num_" not in name)
        == 4_652_008
    )
    assert all(np.isfinite(w).all() for w in weights.values())

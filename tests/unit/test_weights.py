"""The reader of legacy torch weights runs nothing that a file names."""

import pickle
from collections import OrderedDict
from pathlib import Path

import numpy as np
import pytest

from backtalk.errors import WeightsRefused
from backtalk.learn.pretrained import find_lite
from backtalk.learn.weights import MAGIC, PROTOCOL, read_legacy_torch


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


def number(value: int) -> bytes:
    return b"J" + value.to_bytes(4, "little", signed=True)


def text(value: str) -> bytes:
    return b"X" + len(value.encode()).to_bytes(4, "little") + value.encode()


def storage(key: str, count: int) -> bytes:
    return (
        b"(" + text("storage") + b"ctorch\nFloatStorage\n" + text(key) + text("cpu") + number(count) + b"NtQ"
    )


def rebuild(stored: bytes, offset: int, shape: tuple[int, ...], strides: tuple[int, ...]) -> bytes:
    """A tensor of that storage, by hand: torch is not there to pickle it."""

    def numbers(values: tuple[int, ...]) -> bytes:
        return b"(" + b"".join(map(number, values)) + b"t"

    arguments = b"(" + stored + number(offset) + numbers(shape) + numbers(strides) + b"\x89}t"
    return b"ctorch._utils\n_rebuild_tensor_v2\n" + arguments + b"R"


def tensor(offset: int, shape: tuple[int, ...], strides: tuple[int, ...], count: int = 6) -> bytes:
    """One tensor `w` over a storage `s`."""
    return b"\x80\x02}" + text("w") + rebuild(storage("s", count), offset, shape, strides) + b"s."


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


MANY = 1000
#: So many values, all of them the last one of the storage `s`: beyond that one lies foreign memory.
LAST = rebuild(storage("s", MANY), MANY - 1, (MANY,), (0,))


@pytest.mark.parametrize(
    "state", [b"}" + text("values") + LAST + b"s", b"(N}" + text("values") + LAST + b"st"]
)
def test_a_storage_that_is_changed_after_it_was_made_is_refused(tmp_path: Path, state: bytes) -> None:
    changed = storage("u", 1) + b"q\x02" + state + b"b0"  # BINPUT 2, BUILD, POP
    body = b"\x80\x02}" + text("w") + changed + rebuild(b"h\x02", 0, (MANY,), (1,)) + b"s."
    tail = (
        pickle.dumps(["s", "u"], protocol=2)
        + values(MANY)[len(pickle.dumps(["s"], protocol=2)) :]
        + (1).to_bytes(8, "little")
        + bytes(4)
    )
    with pytest.raises(WeightsRefused, match="changes a part of itself"):
        read_legacy_torch(write(tmp_path / "w", body, tail=tail))


def test_a_tensor_that_is_changed_after_it_was_made_is_refused(tmp_path: Path) -> None:
    wide = b"(N}" + text("_strides") + b"(" + number(100) + b"tst"
    body = b"\x80\x02}" + text("w") + rebuild(storage("s", 6), 0, (2,), (1,)) + wide + b"bs."
    with pytest.raises(WeightsRefused, match="changes a part of itself"):
        read_legacy_torch(write(tmp_path / "w", body, tail=values()))


def test_nothing_but_tensors_is_given_out(tmp_path: Path) -> None:
    body = b"\x80\x02}" + text("w") + number(5) + b"s."
    with pytest.raises(WeightsRefused, match="something else than tensors"):
        read_legacy_torch(write(tmp_path / "w", body, tail=pickle.dumps([], protocol=2)))


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
    weights = read_legacy_torch(find_lite(0))
    assert weights["_conv_stem.weight"].shape == (32, 3, 3, 3)
    assert weights["_fc.weight"].shape == (1000, 1280)
    assert (
        sum(w.size for name, w in weights.items() if "running" not in name and "num_" not in name)
        == 4_652_008
    )
    assert all(np.isfinite(w).all() for w in weights.values())

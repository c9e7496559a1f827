"""Folders as tar archives, made while they are sent: little memory, and the size is known before."""

import io
import tarfile
from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import BinaryIO, Self

_BLOCK, _RECORD = tarfile.BLOCKSIZE, tarfile.RECORDSIZE
_CHUNK = 256 * 1024


class TarStream:
    """A tar of files that are all open before the first byte leaves, so that pruning cannot tear it.

    Two archives of the same files are the same bytes: names, sizes and contents only, no owner, no time.
    Close it, or walk it to its end.
    """

    def __init__(self, root: str, files: Mapping[str, Path | bytes]) -> None:
        """`files` maps the name in the archive, below the folder `root`, to a file or its content.

        Raises:
            OSError: a file cannot be read.
        """
        self._open = ExitStack()
        self._parts: list[tuple[bytes, int, BinaryIO]] = []
        try:
            for name, source in files.items():
                self._add(f"{root}/{name}", source)
        except BaseException:
            self.close()
            raise
        used = sum(len(header) + _padded(size, _BLOCK) for header, size, _ in self._parts) + 2 * _BLOCK
        self._tail = _padded(used, _RECORD) - used + 2 * _BLOCK
        self.size = _padded(used, _RECORD)

    def _add(self, name: str, source: Path | bytes) -> None:
        data: BinaryIO = io.BytesIO(source) if isinstance(source, bytes) else source.open("rb")
        self._open.enter_context(data)
        info = tarfile.TarInfo(name)
        info.size = data.seek(0, io.SEEK_END)
        data.seek(0)
        self._parts.append((info.tobuf(tarfile.PAX_FORMAT), info.size, data))

    def __iter__(self) -> Iterator[bytes]:
        with self._open:
            for header, size, data in self._parts:
                yield header
                yield from iter(lambda data=data: data.read(_CHUNK), b"")  # type: ignore[misc]
                yield b"\0" * (_padded(size, _BLOCK) - size)
            yield b"\0" * self._tail

    def close(self) -> None:
        """Let go of the files."""
        self._open.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def _padded(size: int, unit: int) -> int:
    return -(-size // unit) * unit

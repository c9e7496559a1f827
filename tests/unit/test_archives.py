"""Archives that are made while they are sent."""

import io
import tarfile
from pathlib import Path

import pytest

from backtalk.archives import TarStream


def test_an_archive_holds_each_file_and_is_as_long_as_it_said(tmp_path: Path) -> None:
    long_name = f"variables/{'v' * 180}.data"
    (tmp_path / "big").write_bytes(bytes(range(256)) * 3000)
    files = {"saved_model.pb": tmp_path / "big", "assets/labels.txt": "guté\n".encode(), long_name: b""}
    archive = TarStream("cells-3", files)
    said, data = archive.size, b"".join(archive)
    assert len(data) == said
    with tarfile.open(fileobj=io.BytesIO(data)) as tar:
        found = {member.name: tar.extractfile(member).read() for member in tar}
    assert found == {
        "cells-3/saved_model.pb": (tmp_path / "big").read_bytes(),
        "cells-3/assets/labels.txt": "guté\n".encode(),
        f"cells-3/{long_name}": b"",
    }
    assert data == b"".join(TarStream("cells-3", files))


def test_what_is_removed_after_an_archive_was_begun_is_sent_all_the_same(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"a" * 1000)
    archive = TarStream("x", {"a": tmp_path / "a"})
    (tmp_path / "a").unlink()
    assert b"a" * 1000 in b"".join(archive)


def test_a_missing_file_is_met_before_the_first_byte(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"a")
    with pytest.raises(FileNotFoundError):
        TarStream("x", {"a": tmp_path / "a", "b": tmp_path / "b"})

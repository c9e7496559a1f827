"""Files on disk: whole or not there, proven by sums, and never outside their folder."""

import os
import shutil
import subprocess
import threading
from collections.abc import Iterator
from hashlib import sha256
from pathlib import Path
from uuid import UUID

import pytest

from backtalk import store
from backtalk.errors import ArtefactInvalid, ImageNotFound, InvalidName
from backtalk.store import ImageStore, VersionStore, verify_sums, write_sums

PIXELS = "ab" + "0" * 62
RUN = UUID("01930000-0000-7000-8000-000000000001")


@pytest.fixture
def images(tmp_path: Path) -> ImageStore:
    return ImageStore(tmp_path / "images")


@pytest.fixture
def versions(tmp_path: Path) -> VersionStore:
    return VersionStore(tmp_path / "store")


def write_artefact(folder: Path) -> str:
    """What a trainer leaves, in small; returns its digest."""
    for name in ("saved_model.pb", "variables/variables.index", "assets/labels.txt", "head.npz", "card.json"):
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(name.encode() * 100)
    return write_sums(folder)


@pytest.fixture
def candidate(versions: VersionStore) -> tuple[str, str]:
    relative = versions.candidate_path("digits", RUN, 3)
    return relative, write_artefact(versions.resolve(relative))


def files_below(folder: Path) -> list[str]:
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())


# --- images ------------------------------------------------------------------------------------
def test_an_image_comes_back_as_it_was_put(images: ImageStore) -> None:
    key = images.put(PIXELS, b"jpeg")
    assert images.get(key) == b"jpeg"
    assert key == f"ab/{PIXELS}-{sha256(b'jpeg').hexdigest()[:16]}"
    assert list(images.keys()) == [key]


def test_putting_an_image_twice_changes_nothing(images: ImageStore) -> None:
    key = images.put(PIXELS, b"jpeg")
    inode = (images.root / key).stat().st_ino
    assert images.put(PIXELS, b"jpeg") == key
    assert (images.root / key).stat().st_ino == inode


def test_equal_pixels_in_another_file_get_another_key(images: ImageStore) -> None:
    first, second = images.put(PIXELS, b"orientation 6"), images.put(PIXELS, b"orientation 1")
    assert first != second
    assert (images.get(first), images.get(second)) == (b"orientation 6", b"orientation 1")


def test_every_file_with_the_same_pixels_is_found_and_removed(images: ImageStore) -> None:
    other = images.put("ab" + "1" * 62, b"another picture")
    key = images.put(PIXELS, b"one")
    twin = images.put(PIXELS, b"two")
    assert images.list_twins(PIXELS) == sorted([key, twin])
    for _ in range(2):  # again is fine
        for gone in (key, twin):
            images.set_aside(gone)
            images.remove_aside(gone)
    assert list(images.keys()) == [other]
    assert images.list_aside() == []


def test_a_file_that_was_set_aside_is_out_of_sight_until_it_is_put_back(images: ImageStore) -> None:
    key = images.put(PIXELS, b"one")
    images.set_aside(key)
    assert not images.has(key)
    assert images.list_aside() == [key]
    for _ in range(2):
        images.put_back(key)
        assert images.get(key) == b"one"
    assert images.list_aside() == []


def test_a_missing_image_is_not_found(images: ImageStore) -> None:
    key = images.put(PIXELS, b"jpeg")
    images.set_aside(key)
    with pytest.raises(ImageNotFound):
        images.get(key)


def test_an_image_damaged_on_disk_is_never_handed_out(images: ImageStore) -> None:
    key = images.put(PIXELS, b"jpeg")
    (images.root / key).write_bytes(b"jpeh")
    with pytest.raises(ImageNotFound, match="damaged"):
        images.get(key)


@pytest.mark.parametrize("key", ["../../etc/passwd", "/etc/passwd", f"ab/../{PIXELS}", "", "ab/cd"])
def test_a_key_that_leads_elsewhere_is_not_found(images: ImageStore, key: str) -> None:
    with pytest.raises(ImageNotFound):
        images.get(key)
    with pytest.raises(ImageNotFound):
        images.set_aside(key)


def test_pixels_that_are_no_digest_are_refused(images: ImageStore) -> None:
    with pytest.raises(ValueError, match="64 hexadecimal"):
        images.put("../" + "0" * 61, b"jpeg")


def test_threads_may_put_the_same_image_at_once(images: ImageStore) -> None:
    start = threading.Barrier(8)
    keys: list[str] = []

    def put() -> None:
        start.wait()
        keys.extend(images.put(f"{i:064x}", b"same") for i in range(20))

    threads = [threading.Thread(target=put) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(keys) == 160
    assert sorted(set(keys)) == sorted(images.keys())
    assert list((images.root / ".incoming").iterdir()) == []


def test_a_full_disk_leaves_nothing_behind(images: ImageStore, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fdatasync", fail)
    with pytest.raises(OSError, match="No space"):
        images.put(PIXELS, b"jpeg")
    assert files_below(images.root) == []


def test_a_write_that_broke_off_is_swept_once_it_is_old(images: ImageStore) -> None:
    images.put(PIXELS, b"jpeg")
    stale = images.root / ".incoming" / "0123"
    stale.write_bytes(b"half an ima")
    assert images.sweep(older_than_s=60) == 0
    os.utime(stale, (0, 0))
    assert images.sweep(older_than_s=60) == 1
    assert len(files_below(images.root)) == 1


# --- names -------------------------------------------------------------------------------------
@pytest.mark.parametrize("name", ["a", "solar-cells", "0", "x" * 63])
def test_a_good_model_name_is_taken(versions: VersionStore, name: str) -> None:
    assert versions.golden_path(name).relative_to(versions.root).as_posix() == f"{name}/.golden/golden.npz"


@pytest.mark.parametrize("name", ["", "-a", "A", "a/b", "..", ".golden", "_backbones", "a\n", "x" * 64, "ä"])
def test_a_bad_model_name_is_refused(versions: VersionStore, name: str) -> None:
    for call in (
        lambda: versions.golden_path(name),
        lambda: versions.candidate_path(name, RUN, 1),
        lambda: versions.publish(f"{name}/1", name, 2, "0" * 64),
        lambda: versions.write_models_config({name: 1}),
    ):
        with pytest.raises(InvalidName):
            call()


@pytest.mark.parametrize(
    "relative",
    ["", "..", "digits", "digits/0", "digits/../..", "/etc", "digits/1/..", "digits/.candidates", "a/1/b"],
)
def test_a_place_outside_the_store_is_refused(versions: VersionStore, relative: str) -> None:
    with pytest.raises(InvalidName):
        versions.resolve(relative)
    with pytest.raises(InvalidName):
        versions.discard(relative)


def test_a_link_that_leads_out_of_the_store_is_refused(versions: VersionStore, tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    (outside / "1").mkdir(parents=True)
    versions.root.mkdir()
    (versions.root / "digits").symlink_to(outside)
    with pytest.raises(InvalidName):
        versions.discard("digits/1")
    assert (outside / "1").is_dir()


def test_backbones_lie_under_their_digest(versions: VersionStore) -> None:
    digest = "c" * 64
    assert versions.backbone_dir(digest) == versions.root / "_backbones" / digest
    with pytest.raises(InvalidName):
        versions.backbone_dir("../" + "c" * 61)


# --- publishing --------------------------------------------------------------------------------
def test_publishing_renames_the_candidate_to_its_number(
    versions: VersionStore, candidate: tuple[str, str]
) -> None:
    relative, digest = candidate
    assert versions.publish(relative, "digits", 7, digest) == "digits/7"
    verify_sums(versions.resolve("digits/7"), digest)
    assert not versions.resolve(relative).exists()


def test_publishing_again_goes_on(versions: VersionStore, candidate: tuple[str, str]) -> None:
    relative, digest = candidate
    versions.publish(relative, "digits", 7, digest)
    assert versions.publish(relative, "digits", 7, digest) == "digits/7"
    assert versions.publish("digits/7", "digits", 7, digest) == "digits/7"


def test_a_number_that_another_artefact_has_is_not_overwritten(
    versions: VersionStore, candidate: tuple[str, str]
) -> None:
    relative, digest = candidate
    versions.publish(relative, "digits", 7, digest)
    other = versions.candidate_path("digits", RUN, 4)
    folder = versions.resolve(other)
    folder.mkdir(parents=True)
    (folder / "head.npz").write_bytes(b"another head")
    with pytest.raises(ArtefactInvalid):
        versions.publish(other, "digits", 7, write_sums(folder))
    verify_sums(versions.resolve("digits/7"), digest)


def test_a_candidate_with_another_digest_is_not_published(
    versions: VersionStore, candidate: tuple[str, str]
) -> None:
    with pytest.raises(ArtefactInvalid):
        versions.publish(candidate[0], "digits", 7, "0" * 64)
    assert not versions.resolve("digits/7").exists()


def test_a_missing_candidate_is_not_published(versions: VersionStore) -> None:
    with pytest.raises(ArtefactInvalid):
        versions.publish(versions.candidate_path("digits", RUN, 1), "digits", 7, "0" * 64)


def test_many_may_publish_the_same_candidate_at_once(
    versions: VersionStore, candidate: tuple[str, str]
) -> None:
    relative, digest = candidate
    start = threading.Barrier(8)
    answers: list[str] = []

    def publish() -> None:
        start.wait()
        answers.append(versions.publish(relative, "digits", 7, digest))

    threads = [threading.Thread(target=publish) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert answers == ["digits/7"] * 8


def test_discarding_leaves_no_trace_and_bears_absence(
    versions: VersionStore, candidate: tuple[str, str]
) -> None:
    versions.discard(candidate[0])
    versions.discard(candidate[0])
    assert files_below(versions.root) == []
    assert list(versions.resolve(candidate[0]).parent.iterdir()) == []


def test_pruning_keeps_what_replay_needs_and_still_verifies(
    versions: VersionStore, candidate: tuple[str, str]
) -> None:
    relative, digest = candidate
    versions.publish(relative, "digits", 7, digest)
    versions.prune("digits/7")
    versions.prune("digits/7")
    folder = versions.resolve("digits/7")
    assert files_below(folder) == ["SHA256SUMS", "card.json", "head.npz"]
    verify_sums(folder, digest, pruned=True)
    with pytest.raises(ArtefactInvalid):
        verify_sums(folder, digest)
    (folder / "head.npz").write_bytes(b"forged")
    with pytest.raises(ArtefactInvalid, match=r"head\.npz"):
        verify_sums(folder, digest, pruned=True)


# --- models.config -----------------------------------------------------------------------------
def test_models_config_is_what_tensorflow_serving_reads(versions: VersionStore) -> None:
    versions.write_models_config({"solar-cells": 3, "digits": 12})
    text = versions.models_config_path.read_text()
    assert parse_text_proto(text) == {
        "model_config_list": [
            {
                "config": [
                    {
                        "name": [name],
                        "base_path": [f"/models/{name}"],
                        "model_platform": ["tensorflow"],
                        "model_version_policy": [{"specific": [{"versions": [number]}]}],
                    }
                    for name, number in (("digits", 12), ("solar-cells", 3))
                ]
            }
        ]
    }


def test_the_prefix_of_base_paths_can_be_set(tmp_path: Path) -> None:
    moved = VersionStore(tmp_path, serving_prefix="/srv/store/")
    moved.write_models_config({"digits": 1})
    assert 'base_path: "/srv/store/digits"' in moved.models_config_path.read_text()


@pytest.mark.parametrize("live", [{}, {"digits": 1}, {"a": 1, "b": 22, "c-3": 333}])
def test_models_config_reads_back(versions: VersionStore, live: dict[str, int]) -> None:
    assert versions.read_models_config() == {}
    versions.write_models_config({"gone": 9})
    versions.write_models_config(live)
    assert versions.read_models_config() == live
    assert files_below(versions.root) == ["models.config"]


def test_a_models_config_of_another_hand_is_told_apart(versions: VersionStore) -> None:
    versions.write_models_config({"digits": 1})
    text = versions.models_config_path.read_text().replace("versions: 1", "latest {}")
    versions.models_config_path.write_text(text)
    with pytest.raises(ArtefactInvalid, match=r"models\.config"):
        versions.read_models_config()


def parse_text_proto(text: str) -> dict[str, list[object]]:
    """Enough of protobuf's text format for ModelServerConfig; every field becomes a list."""
    stripped = "\n".join(line for line in text.splitlines() if not line.startswith("#"))
    tokens = iter(stripped.replace("{", " { ").replace("}", " } ").replace(":", " : ").split())

    def message(tokens: Iterator[str]) -> dict[str, list[object]]:
        fields: dict[str, list[object]] = {}
        for name in tokens:
            if name == "}":
                return fields
            follows = next(tokens)
            if follows == "{":
                value: object = message(tokens)
            else:
                word = next(tokens)
                value = word.strip('"') if word.startswith('"') else int(word)
            fields.setdefault(name, []).append(value)
        return fields

    return message(tokens)


# --- sums --------------------------------------------------------------------------------------
def test_sums_agree_with_the_command_that_everybody_has(tmp_path: Path) -> None:
    digest = write_artefact(tmp_path / "artefact")
    tool = shutil.which("sha256sum")
    if tool is None:
        pytest.skip("no sha256sum on this machine")
    subprocess.run([tool, "--strict", "--check", "SHA256SUMS"], cwd=tmp_path / "artefact", check=True)
    assert sha256((tmp_path / "artefact" / "SHA256SUMS").read_bytes()).hexdigest() == digest


def test_sums_do_not_depend_on_the_order_on_disk(tmp_path: Path) -> None:
    for name, order in (("one", 1), ("two", -1)):
        (tmp_path / name).mkdir()
        for file in ("a", "b", "c")[::order]:
            (tmp_path / name / file).write_text(file)
    assert write_sums(tmp_path / "one") == write_sums(tmp_path / "two")


def test_writing_sums_again_gives_the_same_digest(tmp_path: Path) -> None:
    digest = write_artefact(tmp_path / "artefact")
    assert write_sums(tmp_path / "artefact") == digest


@pytest.mark.parametrize("name", ["saved_model.pb", "variables/variables.index", "head.npz"])
def test_each_flipped_bit_missing_or_extra_file_is_named(tmp_path: Path, name: str) -> None:
    digest = write_artefact(tmp_path)
    path = tmp_path / name
    sound = path.read_bytes()
    for broken in (bytes([sound[0] ^ 1]) + sound[1:], sound[:-1], b""):
        path.write_bytes(broken)
        with pytest.raises(ArtefactInvalid, match=f"{name} was changed"):
            verify_sums(tmp_path, digest)
    path.unlink()
    with pytest.raises(ArtefactInvalid, match=f"{name} is missing"):
        verify_sums(tmp_path, digest)
    path.write_bytes(sound)
    verify_sums(tmp_path, digest)
    (path.parent / "extra").touch()
    with pytest.raises(ArtefactInvalid, match="extra does not belong") as caught:
        verify_sums(tmp_path, digest)
    assert str(caught.value.extra["file"]).endswith("extra")


def test_sums_that_were_rewritten_do_not_match_the_recorded_digest(tmp_path: Path) -> None:
    digest = write_artefact(tmp_path)
    (tmp_path / "head.npz").write_bytes(b"forged")
    write_sums(tmp_path)
    with pytest.raises(ArtefactInvalid, match="SHA256SUMS was changed"):
        verify_sums(tmp_path, digest)
    (tmp_path / "SHA256SUMS").unlink()
    with pytest.raises(ArtefactInvalid, match="SHA256SUMS is missing"):
        verify_sums(tmp_path, digest)


def test_a_folder_that_is_not_there_is_an_invalid_artefact(tmp_path: Path) -> None:
    with pytest.raises(ArtefactInvalid):
        verify_sums(tmp_path / "gone", "0" * 64)


@pytest.mark.parametrize("kind", ["link", "folder link", "pipe"])
def test_links_and_special_files_are_never_part_of_an_artefact(tmp_path: Path, kind: str) -> None:
    digest = write_artefact(tmp_path)
    odd = tmp_path / "variables" / "odd"
    if kind == "pipe":
        os.mkfifo(odd)
    else:
        odd.symlink_to(tmp_path / ("head.npz" if kind == "link" else "assets"))
    with pytest.raises(ArtefactInvalid, match="odd"):
        verify_sums(tmp_path, digest)
    with pytest.raises(ArtefactInvalid, match="odd"):
        write_sums(tmp_path)


def test_a_crash_at_any_step_leaves_the_old_file_or_the_new_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "models.config"
    store.write_atomically(path, b"old")
    for step in ("fsync", "rename"):
        with monkeypatch.context() as patch:

            def crash(*_: object) -> None:
                raise KeyboardInterrupt

            patch.setattr(*((os, "fsync") if step == "fsync" else (Path, "rename")), crash)
            with pytest.raises(KeyboardInterrupt):
                store.write_atomically(path, b"new")
        assert path.read_bytes() == b"old"
        assert files_below(tmp_path) == ["models.config"]
    store.write_atomically(path, b"new")
    assert path.read_bytes() == b"new"

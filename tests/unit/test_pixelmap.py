"""Pixels decoded once: taken over, made anew, and whole whatever other attempts do meanwhile."""

from collections.abc import Callable
from hashlib import sha256
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from backtalk.images import MAX_PIXELS, decode, pixels_digest, to_input
from backtalk.learn.checkpoints import Checkpoint, Checkpoints
from backtalk.learn.pixelmap import PixelMap, Source, map_pixels
from backtalk.store import ImageStore

SIDE = 8
GONE = f"aa/{'a' * 64}-{'0' * 16}"  # a key that no file has
SNAPSHOT = "5" * 64


def draw(seed: int) -> bytes:
    """A PNG of 11 × 9 pixels, so that it is cut and scaled."""
    buffer = BytesIO()
    pixels = np.random.default_rng(seed).integers(0, 256, (9, 11, 3), np.uint8)
    Image.fromarray(pixels).save(buffer, "PNG")
    return buffer.getvalue()


@pytest.fixture
def images(tmp_path: Path) -> ImageStore:
    return ImageStore(tmp_path / "images")


@pytest.fixture
def sources(images: ImageStore) -> list[Source]:
    """Two pictures, one whose file is gone, a third that is to be turned, and a file that is no picture."""
    kept = [images.put(pixels_digest(decode(draw(seed)).pixels), draw(seed)) for seed in range(3)]
    broken = images.put(sha256(b"broken").hexdigest(), b"no picture")
    named = ((kept[0], 1), (kept[1], 1), (GONE, 1), (kept[2], 6), (broken, 1))
    return [Source(key, orientation) for key, orientation in named]


def hear_nothing(_fraction: float) -> None:
    return


def lay(
    folder: Path,
    sources: list[Source],
    images: ImageStore,
    tell: Callable[[float], None] = hear_nothing,
    threads: int = 2,
) -> PixelMap:
    return map_pixels(folder, SNAPSHOT, SIDE, sources, images, threads=threads, tell=tell)


def name_file(folder: Path) -> tuple[int, int]:
    """Which file it is, and when it was last written to."""
    (path,) = folder.iterdir()
    return path.stat().st_ino, path.stat().st_mtime_ns


def expect(seed: int, orientation: int = 1) -> np.ndarray:
    return to_input(decode(draw(seed), orientation=orientation).pixels, SIDE)


def test_rows_are_what_the_backbone_takes_and_those_that_cannot_be_read_are_black(
    tmp_path: Path, images: ImageStore, sources: list[Source]
) -> None:
    told: list[float] = []
    mapped = lay(tmp_path / "work", sources, images, told.append)
    assert mapped.readable.tolist() == [True, True, False, True, False]
    pixels = mapped.open()
    assert (pixels.shape, pixels.dtype) == ((5, SIDE, SIDE, 3), np.uint8)
    for row, expected in ((0, expect(0)), (1, expect(1)), (3, expect(2, 6))):
        np.testing.assert_array_equal(pixels[row], expected)
    assert not pixels[[2, 4]].any()
    assert told[-1] == 1.0


def test_an_attempt_takes_the_map_over_that_is_there(
    tmp_path: Path, images: ImageStore, sources: list[Source]
) -> None:
    first = lay(tmp_path / "work", sources, images, threads=1)
    before, pixels = name_file(tmp_path / "work"), np.array(first.open())
    told: list[float] = []
    second = lay(tmp_path / "work", sources, images, told.append)
    assert name_file(tmp_path / "work") == before
    assert told == []  # nothing was decoded
    assert second.readable.tolist() == first.readable.tolist() == [True, True, False, True, False]
    np.testing.assert_array_equal(second.open(), pixels)


def test_what_is_written_to_it_does_not_stay(
    tmp_path: Path, images: ImageStore, sources: list[Source]
) -> None:
    mapped = lay(tmp_path / "work", sources, images)
    mapped.open()[:] = 7
    np.testing.assert_array_equal(mapped.open()[0], expect(0))


@pytest.mark.parametrize("change", ["their order", "an orientation", "their number"])
def test_a_map_of_other_sources_is_made_anew(
    tmp_path: Path, images: ImageStore, sources: list[Source], change: str
) -> None:
    lay(tmp_path / "work", sources, images)
    before = name_file(tmp_path / "work")
    others = {
        "their order": sources[::-1],
        "an orientation": [Source(sources[0].store_key, 3), *sources[1:]],
        "their number": sources[:2],
    }[change]
    mapped = lay(tmp_path / "work", others, images)
    assert name_file(tmp_path / "work") != before
    anew = lay(tmp_path / "other", others, images)
    assert mapped.readable.tolist() == anew.readable.tolist()
    np.testing.assert_array_equal(mapped.open(), anew.open())


@pytest.mark.parametrize("damage", [lambda d: b"", lambda d: d[:-1], lambda d: d + b"\0", lambda d: d[1:]])
def test_a_file_that_is_no_whole_map_is_made_anew(
    tmp_path: Path, images: ImageStore, sources: list[Source], damage: Callable[[bytes], bytes]
) -> None:
    path = lay(tmp_path / "work", sources, images).path
    whole = path.read_bytes()
    path.write_bytes(damage(whole))
    assert lay(tmp_path / "work", sources, images).readable.sum() == 3
    assert path.read_bytes() == whole


# --- other attempts ----------------------------------------------------------------------------------
@pytest.mark.parametrize("is_there", [False, True])
def test_what_a_killed_attempt_left_aside_goes_and_no_other_runs(
    tmp_path: Path, images: ImageStore, sources: list[Source], is_there: bool
) -> None:
    if is_there:
        lay(tmp_path / "work", sources, images)
    for run in ("work", "other"):
        (tmp_path / run).mkdir(exist_ok=True)
        (tmp_path / run / ".new-0123").write_bytes(b"half of a map")
    mapped = lay(tmp_path / "work", sources, images)
    assert list((tmp_path / "work").iterdir()) == [mapped.path]
    np.testing.assert_array_equal(mapped.open()[0], expect(0))
    assert (tmp_path / "other" / ".new-0123").exists()


def test_an_attempt_that_lives_on_beside_its_successor_spoils_nothing(
    tmp_path: Path, images: ImageStore, sources: list[Source]
) -> None:
    made: list[tuple[int, int]] = []

    def succeed(_fraction: float) -> None:
        """While the older attempt decodes, the next one begins and is done."""
        lay(tmp_path / "work", sources, images)
        made.append(name_file(tmp_path / "work"))

    with pytest.raises(FileNotFoundError):
        lay(tmp_path / "work", sources[::-1], images, succeed)
    assert [name_file(tmp_path / "work")] == made
    mapped = lay(tmp_path / "work", sources, images)
    assert [name_file(tmp_path / "work")] == made  # it was taken over
    np.testing.assert_array_equal(mapped.open()[0], expect(0))


class Delaying:
    """An array that is slow to be saved: the next attempt begins meanwhile."""

    def __init__(self, begin: Callable[[], object]) -> None:
        self._begin = begin

    def __array__(self, *_: object, **__: object) -> np.ndarray:
        self._begin()
        return np.zeros(3, np.float32)


def test_a_checkpoint_that_an_older_attempt_still_writes_goes_and_never_counts(tmp_path: Path) -> None:
    old, new = (Checkpoints(tmp_path / "checkpoints", fence, {"seed": 7}) for fence in (1, 2))
    arrays = {"learned/0000": np.ones(3, np.float32)}
    old.save(Checkpoint(4, arrays, {}))
    slow = {"learned/0000": Delaying(new.find_newest), "learned/0001": arrays["learned/0000"]}
    with pytest.raises(FileNotFoundError):
        old.save(Checkpoint(5, slow, {}))  # type: ignore[arg-type]
    assert [path.name for path in (tmp_path / "checkpoints").iterdir()] == ["000000004-1"]
    found = new.find_newest()
    assert found is not None
    assert found.step == 4


def test_what_a_killed_attempt_left_of_a_checkpoint_goes_and_no_other_runs(tmp_path: Path) -> None:
    for run in ("checkpoints", "other"):
        aside = tmp_path / run / ".new-0123"
        aside.mkdir(parents=True)
        (aside / "state.npz").write_bytes(b"half of it")
    assert Checkpoints(tmp_path / "checkpoints", 2, {"seed": 7}).find_newest() is None
    assert list((tmp_path / "checkpoints").iterdir()) == []
    assert (tmp_path / "other" / ".new-0123" / "state.npz").exists()


def test_a_kept_picture_is_read_though_no_upload_may_be_as_large(tmp_path: Path, images: ImageStore) -> None:
    file = BytesIO()
    Image.new("RGB", (5001, 5000), "white").save(file, "PNG")
    assert MAX_PIXELS < 5001 * 5000
    picture = decode(file.getvalue(), max_pixels=2 * MAX_PIXELS)
    source = Source(images.put(pixels_digest(picture.pixels), picture.data), 1)
    mapped = lay(tmp_path / "work", [source], images)
    assert mapped.readable.tolist() == [True]
    assert mapped.open().min() > 250  # averaged over many pixels, which rounds

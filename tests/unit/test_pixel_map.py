"""The pixels that a full run learns from: whatever was taken in once can be read."""

from io import BytesIO
from pathlib import Path

from PIL import Image

from backtalk.images import MAX_PIXELS, decode, pixels_digest
from backtalk.learn.pixelmap import Source, map_pixels
from backtalk.store import ImageStore


def test_a_kept_picture_is_read_though_no_upload_may_be_as_large(tmp_path: Path) -> None:
    file = BytesIO()
    Image.new("RGB", (5001, 5000), "white").save(file, "PNG")
    assert MAX_PIXELS < 5001 * 5000
    picture = decode(file.getvalue(), max_pixels=2 * MAX_PIXELS)
    images = ImageStore(tmp_path / "images")
    source = Source(images.put(pixels_digest(picture.pixels), picture.data), 1)
    mapped = map_pixels(tmp_path, "5" * 64, 8, [source], images, threads=1, tell=lambda _: None)
    assert mapped.readable.tolist() == [True]
    assert mapped.open().min() > 250  # averaged over many pixels, which rounds

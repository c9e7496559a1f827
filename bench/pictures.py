"""Photographs for the benchmarks: all different, so that nothing is answered from what is already known."""

from io import BytesIO
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from sklearn.datasets import load_sample_images

WIDTH, HEIGHT = 500, 300


def make_pictures(count: int, seed: int = 0) -> list[bytes]:
    """`count` JPEG files of 500 × 300 pixels, cut from two photographs at random places and brightness."""
    draw = np.random.default_rng(seed)
    photographs = load_sample_images().images
    return [_make_picture(photographs[number % len(photographs)], draw) for number in range(count)]


def _make_picture(photograph: NDArray[np.uint8], draw: np.random.Generator) -> bytes:
    height, width = photograph.shape[:2]
    top, left = draw.integers(height - HEIGHT), draw.integers(width - WIDTH)
    cut = Image.fromarray(np.ascontiguousarray(photograph[top : top + HEIGHT, left : left + WIDTH]))
    brightness = draw.uniform(0.7, 1.3)
    file = BytesIO()
    cut.point(lambda value: value * brightness).save(file, "JPEG", quality=85)
    return file.getvalue()


def save_pictures(path: Path, pictures: list[bytes]) -> None:
    ends = np.cumsum([len(picture) for picture in pictures])
    np.savez(path, flat=np.frombuffer(b"".join(pictures), np.uint8), ends=ends)


def load_pictures(path: Path) -> list[bytes]:
    with np.load(path) as stored:
        flat, ends = stored["flat"].tobytes(), stored["ends"].tolist()
    return [flat[start:end] for start, end in zip([0, *ends[:-1]], ends, strict=True)]

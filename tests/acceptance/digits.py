"""Scikit-learn's handwritten digits as PNG files: as they are, and with colours inverted (what the model has
not seen, and reads wrongly for that reason)."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path

import numpy as np
from PIL import Image
from sklearn.datasets import load_digits

LABELS = ("zero", "one")
_SIDE = 32  # pixels


@dataclass(frozen=True)
class Digit:
    label: str
    png: bytes


class Digits:
    """Each digit is handed out once, so that no test learns from what another one said."""

    def __init__(self, labels: Sequence[str] = LABELS) -> None:
        self._labels = tuple(labels)
        images, values = load_digits(n_class=len(labels), return_X_y=True)
        self._unused: Iterator[tuple[np.ndarray, int]] = iter(list(zip(images, values, strict=True)))

    def take(self, n: int, *, inverted: bool) -> list[Digit]:
        return [self._draw(*next(self._unused), inverted=inverted) for _ in range(n)]

    def write_folder(self, n: int, folder: Path) -> Path:
        """`n` digits as they are, in one folder per label."""
        for number, digit in enumerate(self.take(n, inverted=False)):
            path = folder / digit.label / f"{number:04d}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(digit.png)
        return folder

    def _draw(self, pixels: np.ndarray, value: int, *, inverted: bool) -> Digit:
        small = Image.fromarray((pixels.reshape(8, 8) * 255 / 16).astype(np.uint8))
        grey = np.zeros((_SIDE, _SIDE), np.uint8)
        grey[2:-2, 2:-2] = np.asarray(small.resize((_SIDE - 4, _SIDE - 4), Image.Resampling.BICUBIC))
        buffer = BytesIO()
        Image.fromarray(255 - grey if inverted else grey).save(buffer, "PNG")
        return Digit(self._labels[value], buffer.getvalue())

"""TensorBoard logs of a run: curves, a confusion matrix, a projector of embeddings.

Nobody's run fails for them: what cannot be written is said once on standard error, and left.
"""

import json
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from backtalk.learn.flow import tf

PROJECTED = 400  # embeddings: the projector's file is text, some 4 MB with a width of 1,280
_CELL, _MARGIN = 28, 110  # pixels
_READABLE = 40  # labels; with more, names do not fit beside the matrix


class Board:
    """One run's logs; nothing is written where there is no folder."""

    def __init__(self, folder: Path | None) -> None:
        self._folder = folder
        self._writer: Any = None
        self._attempt(self._open)

    def _open(self) -> None:
        if self._folder is not None:
            self._writer = tf.summary.create_file_writer(str(self._folder))

    def scalars(self, values: Mapping[str, float | None], step: int) -> None:
        """Those that are numbers."""

        def write() -> None:
            with self._writer.as_default(step=step):
                for name, value in values.items():
                    if value is not None:
                        tf.summary.scalar(name, value)

        self._attempt_written(write)

    def text(self, name: str, values: Mapping[str, Any], step: int = 0) -> None:
        """As a block of JSON."""

        def write() -> None:
            with self._writer.as_default(step=step):
                tf.summary.text(name, f"```\n{json.dumps(values, indent=1, ensure_ascii=False)}\n```")

        self._attempt_written(write)

    def confusion(
        self, labels: Sequence[str], truth: NDArray[np.int32], found: NDArray[np.int64], step: int
    ) -> None:
        """Rows are what is right, columns what was said; `truth` and `found` are (N,) indices of labels."""

        def write() -> None:
            matrix = np.zeros((len(labels), len(labels)), np.int64)
            np.add.at(matrix, (truth, found), 1)
            with self._writer.as_default(step=step):
                tf.summary.image("confusion", draw_confusion(labels, matrix)[None])

        if len(truth):
            self._attempt_written(write)

    def project(self, embeddings: NDArray[np.float16], names: Sequence[str]) -> None:
        """Embeddings (N, D) with a label each, for the projector; at most `PROJECTED`, evenly drawn."""

        def write() -> None:
            assert self._folder is not None  # there is a writer
            rows = np.unique(np.linspace(0, len(embeddings) - 1, min(PROJECTED, len(embeddings))).astype(int))
            lines = ("\t".join(f"{value:.4g}" for value in embeddings[row]) for row in rows)
            (self._folder / "embeddings.tsv").write_text("\n".join(lines) + "\n", encoding="utf-8")
            (self._folder / "labels.tsv").write_text(
                "".join(f"{names[row]}\n" for row in rows), encoding="utf-8"
            )
            (self._folder / "projector_config.pbtxt").write_text(_PROJECTOR, encoding="utf-8")

        if len(embeddings):
            self._attempt_written(write)

    def close(self) -> None:
        if self._writer is not None:
            self._attempt(self._writer.close)
        self._writer = None

    def _attempt_written(self, write: Callable[[], None]) -> None:
        if self._writer is not None:
            self._attempt(write)

    def _attempt(self, write: Callable[[], None]) -> None:
        try:
            write()
        except (OSError, tf.errors.OpError) as error:
            print(f"no TensorBoard logs from here on: {error}", file=sys.stderr)  # noqa: T201  # its log
            self._writer = None


_PROJECTOR = """embeddings {
  tensor_name: "embedding"
  tensor_path: "embeddings.tsv"
  metadata_path: "labels.tsv"
}
"""


def draw_confusion(labels: Sequence[str], matrix: NDArray[np.int64]) -> NDArray[np.uint8]:
    """(C, C) counts as a picture (H, W, 3): the darker, the larger the share of the row."""
    size, margin = len(labels), _MARGIN if len(labels) <= _READABLE else 4
    cell = _CELL if len(labels) <= _READABLE else 6
    image = Image.new("RGB", (margin + size * cell + 4, margin + size * cell + 4), "white")
    draw = ImageDraw.Draw(image)
    shares = matrix / np.maximum(matrix.sum(axis=1, keepdims=True), 1)
    for row, column in np.ndindex(size, size):
        share = float(shares[row, column])
        left, top = margin + column * cell, margin + row * cell
        shade = int(255 * (1 - share))
        draw.rectangle((left, top, left + cell - 2, top + cell - 2), fill=(shade, shade, 255))
        if cell == _CELL and matrix[row, column]:
            draw.text((left + 3, top + 8), str(matrix[row, column]), fill="white" if share > 0.5 else "black")
    if size <= _READABLE:
        _name_axes(image, labels, margin)
    return np.asarray(image)


def _name_axes(image: Image.Image, labels: Sequence[str], margin: int) -> None:
    """What is right on the left, what was said above, turned by a quarter."""
    draw = ImageDraw.Draw(image)
    for number, label in enumerate(labels):
        place = margin + number * _CELL
        draw.text((4, place + 8), label[:16], fill="black")
        name = Image.new("RGB", (margin - 4, _CELL - 2), "white")
        ImageDraw.Draw(name).text((2, 6), label[:16], fill="black")
        image.paste(name.rotate(90, expand=True), (place, 2))

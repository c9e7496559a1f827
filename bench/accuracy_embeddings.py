"""Backbones in the benchmark's store, and what they make of every cell; both are kept for reruns."""

from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from uuid import uuid4

import numpy as np
from numpy.typing import NDArray

from backtalk.images import decode, to_input
from backtalk.runtime import Backbone
from demo.cells import Cell


def prepare(store: Path, name: str, input_size: int | None, weights: str | None) -> str:
    """The digest of a backbone with its pretrained weights, put into the store if it is not there.

    In a process of its own, as in service: TensorFlow takes its threads but once, and the run that follows
    has its own wish.

    Raises:
        WeightsRefused, InvalidInput: as `prepare_backbone` does.
    """
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as other:
        return other.submit(_prepare, store, name, input_size, weights).result()


def _prepare(store: Path, name: str, input_size: int | None, weights: str | None) -> str:
    from backtalk.learn.backbones import prepare_backbone

    return prepare_backbone(name, store, input_size, weights).digest


def embed_cells(
    cells: Sequence[Cell], root: Path, digest: str, threads: int, tell: Callable[[float], None]
) -> NDArray[np.float16]:
    """All cells by a backbone of the store in LiteRT, (N, D) in their order."""
    path = root / "embedded" / f"{digest}-{len(cells)}.npy"
    if path.is_file():
        return np.asarray(np.load(path), np.float16)
    backbone = Backbone(root / "store" / "_backbones" / digest, threads)
    inputs = (to_input(decode(cell.read()).pixels, backbone.input_size) for cell in cells)
    found = backbone.embed_many(inputs, lambda n: tell(n / len(cells)))
    path.parent.mkdir(parents=True, exist_ok=True)
    aside = path.with_name(f"{uuid4().hex}.new.npy")
    np.save(aside, found)
    aside.rename(path)
    return found

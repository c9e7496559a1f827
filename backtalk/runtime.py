"""Backbones in LiteRT: pixels in, embeddings out, on any number of threads."""

import contextlib
import hashlib
import json
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from queue import LifoQueue
from threading import Semaphore
from typing import Any

import numpy as np
from ai_edge_litert.interpreter import Interpreter
from numpy.typing import NDArray

from backtalk.errors import ArtefactInvalid

FLATBUFFER = "backbone.tflite"
DESCRIPTION = "backbone.json"


class _Runner:
    """One interpreter of one thread. Not thread-safe: the pool lends it to one caller at a time."""

    def __init__(self, flatbuffer: bytes) -> None:
        # One thread each: several interpreters side by side do more images a second than one on several
        # threads, and the sums are in one order whatever the machine.
        self._interpreter = Interpreter(model_content=flatbuffer, num_threads=1)
        self._interpreter.allocate_tensors()
        self.input = self._interpreter.get_input_details()[0]
        self.output = self._interpreter.get_output_details()[0]

    def run(self, image: NDArray[np.uint8]) -> NDArray[np.float32]:
        self._interpreter.set_tensor(self.input["index"], image[None])
        self._interpreter.invoke()
        embedding: NDArray[np.float32] = self._interpreter.get_tensor(self.output["index"])[0]
        return embedding


class Backbone:
    """A content-addressed backbone. Its answers are bit-equal over threads, batches and interpreters."""

    def __init__(self, folder: Path, interpreters: int) -> None:
        """Load `_backbones/<digest>/`.

        Args:
            folder: with `backbone.tflite` and `backbone.json`.
            interpreters: how many images can be embedded at once; each holds its own copy of the weights.

        Raises:
            ArtefactInvalid: a file is missing, or is not what the folder's name says.
        """
        flatbuffer, described = _read(folder)
        self.digest = hashlib.sha256(flatbuffer).hexdigest()
        if self.digest != folder.name:
            raise ArtefactInvalid(f"{folder / FLATBUFFER} was changed: its SHA-256 is {self.digest}.")
        self.input_size = int(described["input_size"])
        self.width = int(described["width"])
        #: Digest of the float backbone that it was made from, where it is one of 8-bit integers.
        self.quantised_from: str | None = described.get("quantised_from")
        self.byte_size = len(flatbuffer)
        try:
            runners = [_Runner(flatbuffer) for _ in range(interpreters)]
        except (ValueError, RuntimeError) as error:
            raise ArtefactInvalid(f"{folder / FLATBUFFER} does not load: {error}") from None
        self._check_shapes(runners[0], folder)
        self.interpreters = interpreters
        self._free: LifoQueue[_Runner] = LifoQueue()
        for runner in runners:
            self._free.put(runner)

    def _check_shapes(self, runner: _Runner, folder: Path) -> None:
        expected = [1, self.input_size, self.input_size, 3], [1, self.width]
        found = list(runner.input["shape"]), list(runner.output["shape"])
        if found != expected or runner.input["dtype"] is not np.uint8:
            raise ArtefactInvalid(f"{folder / FLATBUFFER} takes {found[0]} and gives {found[1]}.")

    def embed(self, inputs: NDArray[np.uint8]) -> NDArray[np.float16]:
        """(N, S, S, 3) uint8 → (N, D) float16. Thread-safe; waits for a free interpreter."""
        shape = (self.input_size, self.input_size, 3)
        if inputs.dtype != np.uint8 or inputs.shape[1:] != shape:
            raise ValueError(f"expected (N, {shape}) uint8, got {inputs.shape} {inputs.dtype}")
        out = np.empty((len(inputs), self.width), np.float16)
        with self._lend() as runner:
            for row, image in enumerate(inputs):
                out[row] = runner.run(image)
        return out

    @contextlib.contextmanager
    def _lend(self) -> Iterator[_Runner]:
        runner = self._free.get()
        try:
            yield runner
        finally:
            self._free.put(runner)

    def embed_many(
        self, inputs: Iterable[NDArray[np.uint8]], on_done: Callable[[int], None] | None = None
    ) -> NDArray[np.float16]:
        """Images (S, S, 3) uint8 → (N, D) float16 in their order, on all interpreters at once.

        `inputs` is read only a little ahead, so that it may decode as it goes; `on_done` gets the number of
        images that are done, from one thread at a time.
        """
        ahead = Semaphore(4 * self.interpreters)
        found: list[NDArray[np.float16]] = []

        def collect(job: Future[NDArray[np.float16]]) -> None:
            found.append(job.result())
            if on_done is not None:
                on_done(len(found))

        with ThreadPoolExecutor(self.interpreters, thread_name_prefix="embed") as pool:
            jobs = []
            for image in inputs:
                ahead.acquire()
                job = pool.submit(self.embed, image[None])
                job.add_done_callback(lambda _job: ahead.release())
                jobs.append(job)
                while len(found) < len(jobs) and jobs[len(found)].done():
                    collect(jobs[len(found)])
            for job in jobs[len(found) :]:
                collect(job)
        return np.concatenate(found) if found else np.empty((0, self.width), np.float16)


def _read(folder: Path) -> tuple[bytes, dict[str, Any]]:
    try:
        described = json.loads((folder / DESCRIPTION).read_text(encoding="utf-8"))
        flatbuffer = (folder / FLATBUFFER).read_bytes()
    except (OSError, ValueError) as error:
        raise ArtefactInvalid(f"{folder} holds no backbone that can be read: {error}") from None
    if not isinstance(described, dict) or not {"input_size", "width"} <= described.keys():
        raise ArtefactInvalid(f"{folder / DESCRIPTION} does not say the backbone's sizes.")
    return flatbuffer, described

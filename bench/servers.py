"""What predictions are measured against: the work itself, and the server that one would write first."""

import argparse
import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from backtalk.children import start_child, stop_child
from backtalk.servers import free_port
from bench.pictures import load_pictures
from bench.wire import Wire, write_request

SAVED_MODEL = "BENCH_SAVED_MODEL"
_READY_TIMEOUT_S = 90.0


def read_square(data: bytes, size: int) -> NDArray[np.uint8]:
    """Decode and scale as short as Pillow allows, with none of `images.decode`'s checks."""
    image = Image.open(BytesIO(data)).convert("RGB")
    side = min(image.size)
    left, top = (image.width - side) // 2, (image.height - side) // 2
    box = (left, top, left + side, top + side)
    return np.asarray(image.resize((size, size), Image.Resampling.BICUBIC, box=box))


# --- the work itself: decode, resize, LiteRT; nothing else -------------------------------------
def measure_bare(backbone: Path, pictures: Path, seconds: float, threads: int = 2) -> dict[str, float]:
    """Images a second in a process of its own: no HTTP, no record, no head."""
    words = ["--backbone", backbone, "--pictures", pictures, "--seconds", seconds, "--threads", threads]
    command = [sys.executable, "-m", "bench.servers", *map(str, words)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    said: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return said


def run_bare(backbone: Path, pictures: list[bytes], seconds: float, threads: int) -> dict[str, float]:
    """One interpreter per thread, each on pictures of its own; the first half second does not count."""
    embeds = [_make_embed(backbone) for _ in range(threads)]
    stop = threading.Event()
    ends: list[list[float]] = [[] for _ in range(threads)]

    def work(number: int) -> None:
        turn = number
        while not stop.is_set():
            embeds[number](pictures[turn % len(pictures)])
            ends[number].append(time.monotonic())
            turn += threads

    workers = [threading.Thread(target=work, args=(number,)) for number in range(threads)]
    for worker in workers:
        worker.start()
    began = time.monotonic() + 0.5
    time.sleep(seconds + 0.5)
    ended = time.monotonic()
    stop.set()
    for worker in workers:
        worker.join()
    counted = sum(began < end <= ended for one in ends for end in one)
    return {"per_second": counted / (ended - began)}


def _make_embed(backbone: Path) -> Callable[[bytes], None]:
    from ai_edge_litert.interpreter import Interpreter

    interpreter = Interpreter(model_path=str(backbone / "backbone.tflite"), num_threads=1)
    interpreter.allocate_tensors()
    given, made = interpreter.get_input_details()[0], interpreter.get_output_details()[0]
    size = int(given["shape"][1])

    def embed(data: bytes) -> None:
        interpreter.set_tensor(given["index"], read_square(data, size)[None])
        interpreter.invoke()
        interpreter.get_tensor(made["index"])

    return embed


# --- the server that one would write first -----------------------------------------------------
def create_tensorflow_app() -> Any:
    """Flask around the SavedModel's tensor signature. Records nothing, checks nothing.

    Decoding in Pillow: through `serve_bytes`, which decodes in TensorFlow, it answers a tenth fewer.
    """
    import tensorflow as tf
    from flask import Flask, jsonify, request

    app = Flask(__name__)
    predict = tf.saved_model.load(os.environ[SAVED_MODEL]).signatures["serving_default"]
    ((name, spec),) = predict.structured_input_signature[1].items()
    size = int(spec.shape[1])

    @app.post("/predict")
    def answer() -> Any:
        image = tf.constant(read_square(request.get_data(), size)[None])
        scores = predict(**{name: image})["scores"].numpy()[0]
        return jsonify(predictions=[{"scores": scores.tolist()}])

    return app


@contextmanager
def tensorflow_server(saved_model: Path, picture: bytes, log: Path) -> Iterator[str]:
    """Its address, under gunicorn with one process and eight threads: more processes are no faster, since
    TensorFlow takes all cores by itself."""
    port = free_port()
    address = f"http://127.0.0.1:{port}"
    command = [sys.executable, "-m", "gunicorn", "--bind", f"127.0.0.1:{port}", "--worker-class", "gthread"]
    command += ["--workers", "1", "--threads", "8", "--keep-alive", "15", "--timeout", "120"]
    command += ["--no-control-socket", "bench.servers:create_tensorflow_app()"]
    with log.open("wb") as sink:
        process = start_child(command, env=os.environ | {SAVED_MODEL: str(saved_model)}, output=sink)
    try:
        _wait_until_it_answers(address, picture, process, log)
        yield address
    finally:
        stop_child(process)


def _wait_until_it_answers(address: str, picture: bytes, process: subprocess.Popen[bytes], log: Path) -> None:
    deadline = time.monotonic() + _READY_TIMEOUT_S
    request = write_request(address, "/predict", picture, {})
    while time.monotonic() < deadline and process.poll() is None:
        try:
            with Wire(address) as wire:
                if wire.ask(request)[0] == 200:
                    return
        except OSError:
            time.sleep(0.2)
    raise RuntimeError(f"the TensorFlow server did not answer:\n{log.read_text(encoding='utf-8')[-2000:]}")


def main() -> None:
    parser = argparse.ArgumentParser(description="The bare path, measured; prints JSON.")
    parser.add_argument("--backbone", type=Path, required=True)
    parser.add_argument("--pictures", type=Path, required=True)
    parser.add_argument("--seconds", type=float, required=True)
    parser.add_argument("--threads", type=int, default=2)
    given = parser.parse_args()
    pictures = load_pictures(given.pictures)
    print(json.dumps(run_bare(given.backbone, pictures, given.seconds, given.threads)))


if __name__ == "__main__":
    main()

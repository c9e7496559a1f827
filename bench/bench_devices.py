"""A version in every form that a device can run: speed, size and accuracy side by side, on real solar cells.

All forms answer the same pictures in turn on one thread, so that whatever else the machine does is shared
among them; what counts is each form's median over `float32`'s of the same run.
"""

import random
import shutil
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
from numpy.typing import NDArray

from backtalk.devicecheck import dequantise
from backtalk.images import decode, to_input
from bench.bench_loop import LENIENT
from bench.installation import client_of, create_model, installed, list_cells, wait_for
from demo.cells import LABELS, Cell
from demo.client import Client
from demo.stack import Stack

BASE, HELD_OUT = 500, 300
ROUNDS = 200  # pictures that are timed
WARM_UP = 10
MODELS = 3  # tried at most
SEED = 0
SAVED_MODEL, BASELINE = "SavedModel (TensorFlow)", "float32"
FORMS = ("float32", "float16", "dynamic", "int8")
Ask = Callable[[NDArray[np.uint8]], NDArray[np.float32]]


def measure_devices() -> dict[str, Any]:
    """By form: bytes, milliseconds and accuracy, and what of it float32 has."""
    cells = list_cells("mono")
    random.Random(SEED).shuffle(cells)  # the data set lists them module by module, and modules differ
    held_out = cells[BASE : BASE + HELD_OUT]
    with tempfile.TemporaryDirectory(prefix="backtalk-devices-") as name:
        folder = Path(name)
        files = _make_files(folder, cells[:BASE])
        askers = {SAVED_MODEL: _load_saved_model(folder / "1")} | {
            form: _load_litert(file) for form, file in files.items()
        }
        sizes = {form: file.stat().st_size for form, file in files.items()}
        sizes[SAVED_MODEL] = sum(path.stat().st_size for path in (folder / "1").rglob("*") if path.is_file())
        inputs = _read(held_out, 224)
        milliseconds = _time(askers, inputs)
        answers = {form: np.stack([ask(image) for image in inputs]) for form, ask in askers.items()}
    truth = np.array([LABELS.index(cell.label) for cell in held_out])
    return {form: _describe(form, sizes, milliseconds, answers, truth) for form in askers}


def _make_files(folder: Path, base: list[Cell]) -> dict[str, Path]:
    """Version 1 in the float forms and as SavedModel; and the version that the recipe `int8` made of it."""
    with installed() as (stack, _), client_of(stack) as client:
        model, number = _make_versions(stack, client, base)
        files = {form: _export(stack, folder, model, 1, form) for form in FORMS[:-1]}
        shutil.copytree(stack.home / "models_store" / model / "1", folder / "1")
        files["int8"] = _export(stack, folder, model, number, "int8")
    return files


def _make_versions(stack: Stack, client: Client, base: list[Cell]) -> tuple[str, int]:
    """A model, and the number of its 8-bit version, whatever the gate says of that.

    A run for 8 bits may fail on the golden images, which each model draws anew.
    """
    for attempt in range(MODELS):
        model = create_model(stack, f"cells-{attempt}", base)
        stack.run("policy", "set", model, *LENIENT)
        stack.run("train", model, "--kind", "full", "--recipe", "int8")
        run = next(client.runs(model))["id"]
        wait_for(lambda run=run: client.run(run)["ended_at"], patience_s=600.0, pause_s=0.5)
        ended = client.run(run)
        if ended["version"] is not None and ended["state"] not in ("failed", "quarantined"):
            return model, int(ended["version"])
        print(f"  no 8-bit version of {model}: {ended['reason']}")
    raise RuntimeError(f"none of {MODELS} runs for 8 bits made a version")


def _export(stack: Stack, folder: Path, model: str, number: int, form: str) -> Path:
    file = folder / f"{form}.tflite"
    stack.run("export-device", model, file, "--version", str(number), "--form", form)
    return file


def _load_litert(file: Path) -> Ask:
    from ai_edge_litert.interpreter import Interpreter

    interpreter = Interpreter(model_path=str(file), num_threads=1)
    interpreter.allocate_tensors()
    given, made = interpreter.get_input_details()[0], interpreter.get_output_details()[0]

    def ask(image: NDArray[np.uint8]) -> NDArray[np.float32]:
        interpreter.set_tensor(given["index"], image[None])
        interpreter.invoke()
        return dequantise(interpreter.get_tensor(made["index"])[0], made)

    return ask


def _load_saved_model(folder: Path) -> Ask:
    import tensorflow as tf

    tf.config.threading.set_intra_op_parallelism_threads(1)
    tf.config.threading.set_inter_op_parallelism_threads(1)
    loaded = tf.saved_model.load(str(folder))
    predict = loaded.signatures["serving_default"]

    def ask(image: NDArray[np.uint8], _keep: Any = loaded) -> NDArray[np.float32]:
        scores: NDArray[np.float32] = predict(image=tf.constant(image[None]))["scores"].numpy()[0]
        return scores

    return ask


def _read(cells: list[Cell], size: int) -> list[NDArray[np.uint8]]:
    return [to_input(decode(cell.read()).pixels, size) for cell in cells]


def _time(askers: dict[str, Ask], inputs: list[NDArray[np.uint8]]) -> dict[str, float]:
    """Median milliseconds of one picture; all forms in turn, in another order each time."""
    taken: dict[str, list[float]] = {form: [] for form in askers}
    order = list(askers)
    for number in range(WARM_UP + ROUNDS):
        image = inputs[number % len(inputs)]
        order = order[1:] + order[:1]
        for form in order:
            began = time.perf_counter()
            askers[form](image)
            if number >= WARM_UP:
                taken[form].append(1000 * (time.perf_counter() - began))
    return {form: median(times) for form, times in taken.items()}


def _describe(
    form: str,
    sizes: dict[str, int],
    milliseconds: dict[str, float],
    answers: dict[str, NDArray[np.float32]],
    truth: NDArray[np.int_],
) -> dict[str, Any]:
    found, compared = answers[form].argmax(axis=1), answers[BASELINE].argmax(axis=1)
    return {
        "megabytes": round(sizes[form] / 1e6, 2),
        "size_ratio": round(sizes[form] / sizes[BASELINE], 2),
        "ms": round(milliseconds[form], 2),
        "time_ratio": round(milliseconds[form] / milliseconds[BASELINE], 2),
        "accuracy": round(float((found == truth).mean()), 4),
        "same_label": round(float((found == compared).mean()), 4),
        "pictures": len(truth),
    }

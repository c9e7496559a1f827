"""Holds a file for devices against what serves, before anybody gets it. LiteRT alone, as on the device."""

import errno
import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from ai_edge_litert.interpreter import Interpreter
from numpy.typing import NDArray

from backtalk.errors import ArtefactInvalid, BacktalkError, InvalidInput, OutOfRoom
from backtalk.golden import Golden, are_too_few, find_alike
from backtalk.heads import Head
from backtalk.runtime import Backbone
from backtalk.states import DeviceForm

LABELS = "labels.txt"  # in the zip at the end of each file: see `backtalk.learn.modelfiles`


@dataclass(frozen=True)
class Bound:
    """What a form must keep to on the golden images."""

    same_label: float  # share of all images with the label that serves: golden ones must not speak against it
    narrow: float  # where the two best scores that serve are closer than this, either label counts as alike
    difference: float | None  # largest of a score; None where steps of 8 or 16 bits add up as they may


BOUNDS = {
    DeviceForm.FLOAT32: Bound(0.99, 2e-3, 1e-3),  # as a SavedModel: see `backtalk.learn.verify`
    DeviceForm.FLOAT16: Bound(0.95, 0.05, None),
    DeviceForm.DYNAMIC: Bound(0.95, 0.05, None),
    DeviceForm.INT8: Bound(0.95, 0.05, None),
}


def check_form(form: DeviceForm, *, integer: bool) -> None:
    """`integer`: whether the version's backbone is one of 8-bit integers.

    Raises:
        InvalidInput: such a backbone has that one form, and no other has it.
    """
    if integer and form is not DeviceForm.INT8:
        raise InvalidInput(
            f"This version's backbone is one of 8-bit integers, and its file has the form int8, not {form}."
        )
    if not integer and form is DeviceForm.INT8:
        raise InvalidInput(
            "This version's backbone is a float one. A run with the recipe int8 makes one of 8-bit integers, "
            "which the gate judges; the form dynamic has 8-bit weights, too."
        )


def explain_disk(error: OSError, folder: Path) -> BacktalkError:
    """What to tell somebody whose file cannot be written."""
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return OutOfRoom("The disk is full. Make room, then ask for the file again.")
    return InvalidInput(f"The file cannot be written into the folder {folder.name!r}: {error.strerror}.")


def check_file(
    path: Path, form: DeviceForm, head: Head, backbone: Backbone, golden: Golden
) -> dict[str, Any]:
    """Run a file on the golden images, and compare labels and scores with those that serve.

    Returns:
        `same_label`, a share of the `n` golden images; `max_abs_diff` of a score.

    Raises:
        ArtefactInvalid: it does not load, carries other labels, takes or gives something else, or does not
            agree.
    """
    if read_labels(path) != head.labels:
        raise ArtefactInvalid(f"The file of form {form} carries other labels than the version has.")
    inputs = golden.fit(backbone.input_size).inputs
    expected = head.scores(backbone.embed(inputs))
    found = ask_file(path, inputs)
    if found.shape != expected.shape or not np.isfinite(found).all():
        raise ArtefactInvalid(f"The file of form {form} answers with something else than scores.")
    return _compare(form, found, expected)


def _compare(form: DeviceForm, found: NDArray[np.float32], expected: NDArray[np.float32]) -> dict[str, Any]:
    bound = BOUNDS[form]
    alike = find_alike(found, expected, bound.narrow)
    share = float(alike.mean())
    if are_too_few(alike, bound.same_label):
        raise ArtefactInvalid(
            f"In the form {form} this version gives {share:.1%} of {len(found)} golden images the label that "
            f"it gives here: too few for {bound.same_label:.0%} of all, so there is no such file of it."
        )
    difference = float(np.abs(found - expected).max())
    if bound.difference is not None and difference > bound.difference:
        raise ArtefactInvalid(
            f"In the form {form} a score of this version differs by {difference:.1e} from what it is here, "
            f"and {bound.difference:.0e} is allowed, so there is no such file of it."
        )
    return {"n": len(found), "same_label": share, "max_abs_diff": difference}


def ask_file(path: Path, inputs: NDArray[np.uint8]) -> NDArray[np.float32]:
    """Pictures (N, S, S, 3) uint8 → scores (N, C) float32, one at a time on one thread, as a device would.

    Raises:
        ArtefactInvalid: it does not load, or takes or gives something else.
    """
    try:
        interpreter = Interpreter(model_path=str(path), num_threads=1)
        interpreter.allocate_tensors()
        taken, given = interpreter.get_input_details()[0], interpreter.get_output_details()[0]
        answers = []
        for image in inputs:
            interpreter.set_tensor(taken["index"], image[None])
            interpreter.invoke()
            answers.append(dequantise(interpreter.get_tensor(given["index"])[0], given))
    except (ValueError, RuntimeError) as error:
        raise ArtefactInvalid(f"LiteRT does not run {path.name}: {error}") from None
    return np.stack(answers)


def dequantise(values: NDArray[Any], details: dict[str, Any]) -> NDArray[np.float32]:
    """What integers stand for, by LiteRT's own details of the tensor; floats are as they are."""
    step, zero = details["quantization"]
    if not step:
        return values.astype(np.float32)
    return np.asarray((values.astype(np.float32) - zero) * step, np.float32)


def read_labels(path: Path) -> tuple[str, ...]:
    """The labels that a file carries, in the order of the scores.

    Raises:
        ArtefactInvalid: it carries none that can be read.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            return tuple(archive.read(LABELS).decode("utf-8").split("\n")[:-1])
    except (OSError, KeyError, ValueError, zipfile.BadZipFile) as error:
        raise ArtefactInvalid(f"{path.name} carries no labels that can be read: {error}") from None

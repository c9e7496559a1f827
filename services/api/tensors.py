"""Tensors as TensorFlow Serving's REST API writes them in JSON: requests to pictures, answers to numbers.

Its documentation is `api_rest.md`; the sentences that begin an error are those of its `json_tensor.cc`.
"""

import json
from base64 import b64decode
from collections.abc import Sequence
from dataclasses import dataclass
from io import BytesIO
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from backtalk.errors import ImageDeleted, MalformedTensor
from backtalk.incoming import MAX_BATCH
from backtalk.recording import Answered
from backtalk.signatures import EMBEDDING, IMAGE, SCORES, TENSOR_SIGNATURE, Signature, Tensor

ROWS, COLUMNS = "instances", "inputs"
SIGNATURE_NAME = "signature_name"


@dataclass(frozen=True)
class Question:
    """What a request asks: which signature, in which of the two formats, about which pictures."""

    signature: Signature
    in_columns: bool
    pictures: list[bytes]


def has_files_alone(body: Any) -> bool:
    """Whether a body is of Backtalk's own shape: files in rows, and no signature.

    TensorFlow Serving would ask the signature that takes pixels, and refuse it. Whatever else comes gets what
    that would answer.
    """
    if not isinstance(body, dict) or SIGNATURE_NAME in body or COLUMNS in body:
        return False
    rows = body.get(ROWS)
    return isinstance(rows, list) and bool(rows) and all(_is_file(unwrap(row)) for row in rows)


def unwrap(row: Any) -> Any:
    """What is in a row, where it is named after an input: `{"image_bytes": {"b64": "…"}}`."""
    return next(iter(row.values())) if _is_named(row) and len(row) == 1 else row


def check_body(body: Any) -> None:
    """What TensorFlow Serving checks before it looks for the model.

    Raises:
        MalformedTensor: no object, or its signature has no name.
    """
    if not isinstance(body, dict):
        raise MalformedTensor(f"JSON Value: {json.dumps(body)[:100]} Is not object")
    if not isinstance(body.get(SIGNATURE_NAME, ""), str):
        raise MalformedTensor("Not formatted correctly. 'signature_name' key must be a string value.")


def read_question(body: dict[str, Any], signatures: dict[str, Signature]) -> Question:
    """Read the body of `:predict`, one that `check_body` let through.

    Raises:
        MalformedTensor: says what is wrong, and where.
    """
    signature = _find_signature(body, signatures)
    if ROWS in body and COLUMNS in body:
        raise MalformedTensor(
            "Not formatted correctly expecting only one of 'inputs' or 'instances' keys to exist"
        )
    if ROWS not in body and COLUMNS not in body:
        raise MalformedTensor("Missing 'inputs' or 'instances' key")
    in_columns = COLUMNS in body
    values = (
        _read_columns(body[COLUMNS], signature.input) if in_columns else _read_rows(body, signature.input)
    )
    if not 0 < len(values) <= MAX_BATCH:
        raise MalformedTensor(f"Send between 1 and {MAX_BATCH} pictures in one call, not {len(values)}.")
    read = _read_pixels if signature.input.name == IMAGE else _read_files
    return Question(signature, in_columns, read(values, signature.input))


def _find_signature(body: dict[str, Any], signatures: dict[str, Signature]) -> Signature:
    name = body.get(SIGNATURE_NAME, "")
    found = signatures.get(name or TENSOR_SIGNATURE)
    if found is None:
        known = " and ".join(signatures)
        raise MalformedTensor(
            f'Serving signature name: "{name[:100]}" not found in signature def: there are {known}.'
        )
    return found


def _read_rows(body: dict[str, Any], wanted: Tensor) -> list[Any]:
    rows = body[ROWS]
    if not isinstance(rows, list):
        raise MalformedTensor("Excepting 'instances' to be an list/array")
    if not rows:
        raise MalformedTensor("No values in 'instances' array")
    if not _is_named(rows[0]):
        return rows
    for number, row in enumerate(rows):
        if not _is_named(row):
            raise MalformedTensor(f"Expecting object but got list at item {number} of input list")
        if row.keys() != {wanted.name}:
            raise MalformedTensor(
                f"Failed to process element: {number} of 'instances' list. "
                f"JSON object keys must be equal to: {wanted.name}"
            )
    return [row[wanted.name] for row in rows]


def _read_columns(value: Any, wanted: Tensor) -> list[Any]:
    if _is_named(value):
        if wanted.name not in value:
            raise MalformedTensor(f"Missing named input: {wanted.name} in 'inputs' object.")
        value = value[wanted.name]
    if not isinstance(value, list):
        raise MalformedTensor(f"{wanted.name} has shape [], and {_shape(wanted)} is expected.")
    return value


def _is_named(value: Any) -> bool:
    """Whether it names inputs, rather than being bytes in base64."""
    return isinstance(value, dict) and not _is_file(value)


def _is_file(value: Any) -> bool:
    return isinstance(value, dict) and value.keys() == {"b64"} and isinstance(value["b64"], str)


def _read_pixels(values: list[Any], wanted: Tensor) -> list[bytes]:
    """Numbers to PNG, which changes none of them: from here on it is a picture like any other."""
    try:
        pixels = np.asarray(values)
    except ValueError:  # rows of unlike length
        raise MalformedTensor(f"{wanted.name} is no tensor of the shape {_shape(wanted)}.") from None
    if pixels.dtype.kind != "i" or (pixels.size and not 0 <= pixels.min() <= pixels.max() <= 255):
        raise MalformedTensor(
            f"{wanted.name}: a JSON value is not of expected type: {wanted.dtype}, whole numbers of 0 to 255."
            ' Files are {"b64": "…"} each.'
        )
    if pixels.shape[1:] != wanted.shape[1:]:
        found = ",".join(map(str, pixels.shape))
        raise MalformedTensor(f"{wanted.name} has shape [{found}], and {_shape(wanted)} is expected.")
    return [_encode(picture) for picture in pixels.astype(np.uint8)]


def _encode(pixels: NDArray[np.uint8]) -> bytes:
    file = BytesIO()
    Image.fromarray(pixels).save(file, "PNG", compress_level=1)
    return file.getvalue()


def _read_files(values: list[Any], wanted: Tensor) -> list[bytes]:
    return [_read_file(number, value, wanted) for number, value in enumerate(values)]


def _read_file(number: int, value: Any, wanted: Tensor) -> bytes:
    if isinstance(value, str):  # TensorFlow's strings are bytes
        return value.encode("utf-8", "surrogatepass")
    if not isinstance(value, dict):
        raise MalformedTensor(f"{wanted.name}: item {number} is not of expected type: {wanted.dtype}")
    if _is_named(value):
        raise MalformedTensor(f"{wanted.name}: item {number} is not formatted correctly for base64 data")
    try:
        return decode_base64(value["b64"])
    except ValueError:
        raise MalformedTensor(f"{wanted.name}: item {number}: Unable to base64 decode") from None


def decode_base64(text: str) -> bytes:
    """Line ends and missing padding are borne, as TensorFlow Serving does. Raises ValueError."""
    bare = "".join(text.split())
    return b64decode(bare + "=" * (-len(bare) % 4), validate=True)


def _shape(wanted: Tensor) -> str:
    return "[" + ",".join(map(str, wanted.shape)) + "]"


def write_answer(outputs: Sequence[str], answered: Sequence[Answered], *, in_columns: bool) -> dict[str, Any]:
    """The answer in the format of the question. The name of an output that is the only one is left out.

    Raises:
        ImageDeleted: an embedding is asked for that is not there any more.
    """
    given = {name: [_write_output(name, one) for one in answered] for name in outputs}
    if len(outputs) == 1:
        whole: Any = given[outputs[0]]
    elif in_columns:
        whole = given
    else:
        whole = [dict(zip(outputs, row, strict=True)) for row in zip(*given.values(), strict=True)]
    return {"outputs" if in_columns else "predictions": whole}


def _write_output(name: str, answered: Answered) -> list[float]:
    values = {SCORES: answered.scores, EMBEDDING: answered.embedding}[name]
    if values is None:
        raise ImageDeleted("The image was deleted since, so this answer cannot be given again.")
    return [_write_decimal(value) for value in values]


def _write_decimal(value: float) -> float:
    """A float32 with as many digits as it needs: six, or nine where six would be another number."""
    short = float(f"{value:.6g}")
    return short if np.float32(short) == np.float32(value) else float(f"{value:.9g}")


# --- metadata ------------------------------------------------------------------------------------
_DTYPES = {"float32": "DT_FLOAT", "string": "DT_STRING", "uint8": "DT_UINT8"}


def write_signature_map(signatures: dict[str, Signature]) -> dict[str, Any]:
    """The `SignatureDefMap` of `/metadata`. Tensors have no name in a graph: no graph answers here."""
    return {
        "signature_def": {
            name: {
                "inputs": _write_tensors(signature.input),
                "outputs": _write_tensors(*signature.outputs),
                "method_name": "tensorflow/serving/predict",
                "defaults": {},
            }
            for name, signature in signatures.items()
        }
    }


def _write_tensors(*described: Tensor) -> dict[str, Any]:
    return {
        tensor.name: {
            "dtype": _DTYPES[tensor.dtype],
            "tensor_shape": {
                "dim": [{"size": str(side), "name": ""} for side in tensor.shape],
                "unknown_rank": False,
            },
            "name": "",
        }
        for tensor in described
    }

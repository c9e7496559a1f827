"""Proves that an artefact is whole, and says the same as what will serve.

Run by a process that did not write it.
"""

import json
from pathlib import Path
from time import monotonic
from typing import Any

import numpy as np
from numpy.typing import NDArray

from backtalk.errors import ArtefactInvalid
from backtalk.golden import Golden, read_golden
from backtalk.heads import Head
from backtalk.learn.export import (
    BYTES_SIGNATURE,
    CARD,
    HEAD,
    IMAGE,
    IMAGE_BYTES,
    LABELS,
    TENSOR_SIGNATURE,
    can_decode,
)
from backtalk.learn.flow import tf
from backtalk.runtime import Backbone
from backtalk.sums import verify_sums

LARGEST_DIFFERENCE = 1e-4  # of a score, between TensorFlow and LiteRT
NARROW = 2e-4  # where the two best scores are this close, either may win
FEWEST_SAME_LABEL = 0.95  # share of images that `serve_bytes`, which decodes by itself, must answer alike
BATCH = 32

Scores = NDArray[np.float32]


def verify_artefact(folder: Path, artefact_digest: str, golden_path: Path, store: Path) -> dict[str, Any]:
    """Check sums, load, signatures and golden scores.

    Returns:
        `max_abs_diff` of a score; `same_label` and `bytes_same_label`, shares of the `n` golden images, the
        latter None where none of them is a JPEG or PNG; `seconds`.

    Raises:
        ArtefactInvalid: says what is wrong with it.
    """
    started = monotonic()
    verify_sums(folder, artefact_digest)
    head = _check_head(folder)
    golden = read_golden(golden_path)
    backbone = Backbone(store / "_backbones" / head.backbone_digest, 1)
    signatures = _load_signatures(folder, head, golden)
    expected = head.scores(backbone.embed(golden.inputs))
    found = _ask(signatures[TENSOR_SIGNATURE], IMAGE, list(golden.inputs))
    difference, same_label = compare_scores(found, expected)
    bytes_same_label = _compare_bytes(signatures[BYTES_SIGNATURE], golden, expected)
    return {
        "max_abs_diff": difference,
        "same_label": same_label,
        "bytes_same_label": bytes_same_label,
        "n": len(golden.inputs),
        "seconds": round(monotonic() - started, 3),
    }


def _check_head(folder: Path) -> Head:
    head = Head.load(folder / HEAD)
    try:
        labels = tuple((folder / LABELS).read_text(encoding="utf-8").split("\n")[:-1])
        card = json.loads((folder / CARD).read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ArtefactInvalid(f"{folder.name}: {error}") from None
    if labels != head.labels or card.get("labels") != list(labels):
        raise ArtefactInvalid(f"{folder.name}: head, card and labels.txt name different labels.")
    if card.get("backbone_digest") != head.backbone_digest:
        raise ArtefactInvalid(f"{folder.name}: head and card name different backbones.")
    return head


def _load_signatures(folder: Path, head: Head, golden: Golden) -> dict[str, Any]:
    try:
        signatures = dict(tf.saved_model.load(str(folder)).signatures)
    except Exception as error:  # noqa: BLE001  # TensorFlow raises many kinds; all mean that it does not load
        raise ArtefactInvalid(f"{folder.name}: TensorFlow does not load it: {error}") from None
    size, classes, width = golden.inputs.shape[1], len(head.labels), head.weights.shape[1]
    expected = {
        TENSOR_SIGNATURE: (
            {IMAGE: tf.TensorSpec([None, size, size, 3], tf.uint8)},
            {
                "scores": tf.TensorSpec([None, classes], tf.float32),
                "embedding": tf.TensorSpec([None, width], tf.float32),
            },
        ),
        BYTES_SIGNATURE: (
            {IMAGE_BYTES: tf.TensorSpec([None], tf.string)},
            {"scores": tf.TensorSpec([None, classes], tf.float32)},
        ),
    }
    for name, (inputs, outputs) in expected.items():
        _check_signature(folder, name, signatures.get(name), inputs, outputs)
    return signatures


def _check_signature(folder: Path, name: str, signature: Any, inputs: Any, outputs: Any) -> None:
    if signature is None:
        raise ArtefactInvalid(f"{folder.name}: it has no signature {name}.")
    found_inputs, found_outputs = signature.structured_input_signature[1], signature.structured_outputs
    for wanted, found in ((inputs, found_inputs), (outputs, found_outputs)):
        if _plain(wanted) != _plain(found):
            raise ArtefactInvalid(f"{folder.name}: {name} has {_plain(found)} for {_plain(wanted)}.")


def _plain(specs: Any) -> dict[str, tuple[list[int | None], str]]:
    return {name: (spec.shape.as_list(), spec.dtype.name) for name, spec in specs.items()}


def _ask(signature: Any, name: str, values: list[Any]) -> Scores:
    """Scores (N, C) for images or files, a batch at a time."""
    dtype = signature.structured_input_signature[1][name].dtype
    batches = (values[start : start + BATCH] for start in range(0, len(values), BATCH))
    answers = [signature(**{name: tf.constant(batch, dtype)}) for batch in batches]
    return np.concatenate([answer["scores"].numpy() for answer in answers])


def compare_scores(found: Scores, expected: Scores) -> tuple[float, float]:
    """The largest difference of two sets of scores (N, C), and the share of rows with the same label.

    Raises:
        ArtefactInvalid: they differ by more than 1e-4, or in a label that is not a tie.
    """
    if found.shape != expected.shape or not np.isfinite(found).all():
        raise ArtefactInvalid(f"The SavedModel gives scores of shape {found.shape}, or no numbers.")
    difference = float(np.abs(found - expected).max())
    if difference > LARGEST_DIFFERENCE:
        raise ArtefactInvalid(
            f"The SavedModel's scores differ from what would serve by {difference:.1e}; "
            f"{LARGEST_DIFFERENCE:.0e} is allowed."
        )
    same = found.argmax(axis=1) == expected.argmax(axis=1)
    best = np.sort(expected, axis=1)
    wide = best[:, -1] - best[:, -2] > NARROW
    if not same[wide].all():
        raise ArtefactInvalid(f"The SavedModel gives {int((~same & wide).sum())} images another label.")
    return difference, float(same.mean())


def _compare_bytes(signature: Any, golden: Golden, expected: Scores) -> float | None:
    rows = [row for row, data in enumerate(golden.encoded) if can_decode(data)]
    if not rows:
        return None
    found = _ask(signature, IMAGE_BYTES, [golden.encoded[row] for row in rows])
    share = float((found.argmax(axis=1) == expected[rows].argmax(axis=1)).mean())
    if share < FEWEST_SAME_LABEL:
        raise ArtefactInvalid(
            f"serve_bytes agrees on {share:.1%} of {len(rows)} golden images, "
            f"and {FEWEST_SAME_LABEL:.0%} is needed."
        )
    return share

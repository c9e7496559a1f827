"""Proves that an artefact is whole, and says the same as what will serve.

Run by a process that did not write it.
"""

import json
from collections.abc import Sequence
from pathlib import Path
from time import monotonic
from typing import Any

import numpy as np
from numpy.typing import NDArray

from backtalk.errors import ArtefactInvalid
from backtalk.golden import Golden, are_too_few, find_alike, read_golden
from backtalk.heads import Head
from backtalk.learn.export import CARD, HEAD, LABELS
from backtalk.learn.flow import tf
from backtalk.learn.pixels import can_decode
from backtalk.runtime import Backbone
from backtalk.signatures import (
    BYTES_SIGNATURE,
    IMAGE,
    IMAGE_BYTES,
    TENSOR_SIGNATURE,
    Tensor,
    describe_signatures,
)
from backtalk.sums import verify_sums

#: Of a score, for one and the same embedding: nothing but the order of sums may differ.
LARGEST_HEAD_DIFFERENCE = 1e-4
#: Of an embedding's value, beside one step of float16. TensorFlow and LiteRT differ by some 1e-5 before they
#: round, so about one value in a hundred falls to the other side and differs by a whole step.
LARGEST_EMBEDDING_DIFFERENCE = 1e-4
#: Of a score, from pixels on. Those steps, times the weights of a sharp head, were seen to add up to 1.6e-4.
LARGEST_DIFFERENCE = 1e-3
NARROW = 2 * LARGEST_DIFFERENCE  # where the two best scores are this close, either may win
NARROW_FROM_BYTES = 0.05  # the same where TensorFlow decoded: its pixels differ in their last bits
FEWEST_SAME_LABEL = 0.95  # share of images that two ways to an answer, not alike by nature, must answer alike
BATCH = 8  # images: on two cores as fast as more, in a third of the memory

Answers = dict[str, NDArray[np.float32]]


def verify_artefact(folder: Path, artefact_digest: str, golden_path: Path, store: Path) -> dict[str, Any]:
    """Check sums, load, signatures and golden scores.

    Returns:
        `max_abs_diff` of a score from pixels on, and its `bound`; `head_abs_diff` of a score for the
        same embedding; `embedding_abs_diff`; `same_label` and `bytes_same_label`, shares of the `n` golden
        images, the latter with near-ties counted in, and None where none is a JPEG or PNG; `seconds`.

    Raises:
        ArtefactInvalid: says what is wrong with it.
    """
    started = monotonic()
    verify_sums(folder, artefact_digest)
    head = _check_head(folder)
    backbone = Backbone(store / "_backbones" / head.backbone_digest, 1)
    golden = read_golden(golden_path).fit(backbone.input_size)
    signatures = _load_signatures(folder, head, golden)
    embeddings = backbone.embed(golden.inputs)
    expected = head.scores(embeddings)
    found = _ask(signatures[TENSOR_SIGNATURE], IMAGE, golden.inputs)
    if backbone.quantised_from is None:
        checked = compare_answers(found, head, embeddings)
    else:
        checked = compare_quantised(found["scores"], expected)
    bytes_same_label = _compare_bytes(signatures[BYTES_SIGNATURE], golden, expected)
    return checked | {
        "bound": LARGEST_DIFFERENCE if backbone.quantised_from is None else None,
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
    classes, width = head.weights.shape
    expected = describe_signatures(size=golden.inputs.shape[1], width=width, classes=classes)
    for name, wanted in expected.items():
        _check_signature(
            folder, name, signatures.get(name), _to_specs(wanted.input), _to_specs(*wanted.outputs)
        )
    return signatures


def _to_specs(*tensors: Tensor) -> dict[str, Any]:
    return {
        tensor.name: tf.TensorSpec([None if side < 0 else side for side in tensor.shape], tensor.dtype)
        for tensor in tensors
    }


def _check_signature(folder: Path, name: str, signature: Any, inputs: Any, outputs: Any) -> None:
    if signature is None:
        raise ArtefactInvalid(f"{folder.name}: it has no signature {name}.")
    found_inputs, found_outputs = signature.structured_input_signature[1], signature.structured_outputs
    for wanted, found in ((inputs, found_inputs), (outputs, found_outputs)):
        if _plain(wanted) != _plain(found):
            raise ArtefactInvalid(f"{folder.name}: {name} has {_plain(found)} for {_plain(wanted)}.")


def _plain(specs: Any) -> dict[str, tuple[list[int | None], str]]:
    return {name: (spec.shape.as_list(), spec.dtype.name) for name, spec in specs.items()}


def _ask(signature: Any, name: str, values: Sequence[bytes] | NDArray[np.uint8]) -> Answers:
    """All outputs, each (N, …), for images or files; a batch at a time."""
    dtype = signature.structured_input_signature[1][name].dtype
    batches = (values[start : start + BATCH] for start in range(0, len(values), BATCH))
    answers = [signature(**{name: tf.constant(batch, dtype)}) for batch in batches]
    return {key: np.concatenate([answer[key].numpy() for answer in answers]) for key in answers[0]}


def compare_answers(found: Answers, head: Head, embeddings: NDArray[np.float16]) -> dict[str, float]:
    """Compare a SavedModel's answers with what LiteRT and the head say.

    Args:
        found: `scores` (N, C) and `embedding` (N, D), float32.
        embeddings: (N, D), by LiteRT.

    Raises:
        ArtefactInvalid: the backbone, the head or both together differ by more than rounding explains.
    """
    if not all(np.isfinite(values).all() for values in found.values()):
        raise ArtefactInvalid("The SavedModel answers with values that are no numbers.")
    embedding_diff = np.abs(found["embedding"] - embeddings.astype(np.float32))
    steps = np.spacing(np.maximum(found["embedding"].astype(np.float16), embeddings)).astype(np.float32)
    _allow("backbone", float((embedding_diff - steps).max()), LARGEST_EMBEDDING_DIFFERENCE)
    own = head.scores(found["embedding"].astype(np.float16))
    head_diff = _allow("head", float(np.abs(found["scores"] - own).max()), LARGEST_HEAD_DIFFERENCE)
    expected = head.scores(embeddings)
    difference = _allow("SavedModel", float(np.abs(found["scores"] - expected).max()), LARGEST_DIFFERENCE)
    same = found["scores"].argmax(axis=1) == expected.argmax(axis=1)
    best = np.sort(expected, axis=1)
    wide = best[:, -1] - best[:, -2] > NARROW
    if not same[wide].all():
        raise ArtefactInvalid(f"The SavedModel gives {int((~same & wide).sum())} images another label.")
    return {
        "max_abs_diff": difference,
        "head_abs_diff": head_diff,
        "embedding_abs_diff": float(embedding_diff.max()),
        "same_label": float(same.mean()),
    }


def compare_quantised(found: NDArray[np.float32], expected: NDArray[np.float32]) -> dict[str, float]:
    """Hold a float SavedModel against the 8-bit backbone that serves: they are two, and should agree.

    Args:
        found, expected: scores (N, C), by the SavedModel and by LiteRT.

    Raises:
        ArtefactInvalid: they give too many images other labels, near-ties counted as alike.
    """
    if not np.isfinite(found).all():
        raise ArtefactInvalid("The SavedModel answers with values that are no numbers.")
    share = _share_alike("The float SavedModel", found, expected)
    return {"max_abs_diff": float(np.abs(found - expected).max()), "same_label": share}


def _share_alike(what: str, found: NDArray[np.float32], expected: NDArray[np.float32]) -> float:
    """Images with the same best label, or where the two best of `expected` are nearly alike.

    Raises:
        ArtefactInvalid: so few that they cannot well be `FEWEST_SAME_LABEL` of all images (Clopper-Pearson).
    """
    alike = find_alike(found, expected, NARROW_FROM_BYTES)
    if are_too_few(alike, FEWEST_SAME_LABEL):
        raise ArtefactInvalid(
            f"{what} gives {alike.mean():.1%} of {len(alike)} golden images the label that would serve: "
            f"too few for {FEWEST_SAME_LABEL:.0%} of all images."
        )
    return float(alike.mean())


def _allow(what: str, difference: float, largest: float) -> float:
    if not difference <= largest:
        raise ArtefactInvalid(
            f"The {what} in TensorFlow differs from what would serve by {difference:.1e}; "
            f"{largest:.0e} is allowed."
        )
    return difference


def _compare_bytes(signature: Any, golden: Golden, expected: NDArray[np.float32]) -> float | None:
    rows = [row for row, data in enumerate(golden.encoded) if can_decode(data)]
    if not rows:
        return None
    found = _ask(signature, IMAGE_BYTES, [golden.encoded[row] for row in rows])["scores"]
    return _share_alike("serve_bytes", found, expected[rows])

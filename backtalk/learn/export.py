"""Writes a version's artefact: SavedModel for TensorFlow Serving, head, card and sums."""

import json
import platform
import shutil
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np

from backtalk.errors import ArtefactInvalid
from backtalk.failpoints import failpoint
from backtalk.golden import Golden
from backtalk.heads import Head
from backtalk.learn.backbones import Embedder
from backtalk.learn.flow import tf
from backtalk.learn.pixels import decode_input
from backtalk.learn.warmup import encode_prediction_log, write_warmup
from backtalk.signatures import BYTES_SIGNATURE, EMBEDDING, IMAGE, IMAGE_BYTES, SCORES, TENSOR_SIGNATURE
from backtalk.sums import SUMS, make_folder, write_sums

LABELS = "assets/labels.txt"
HEAD = "head.npz"
CARD = "card.json"
_LIBRARIES = ("numpy", "scipy", "tensorflow", "ai-edge-litert")


def write_artefact(
    folder: Path,
    *,
    head: Head,
    embedder: Embedder,
    golden: Golden,
    model: str,
    card: dict[str, Any],
    parent: Path | None = None,
) -> str:
    """Write everything into `folder`, synced to the disk, sums last; whatever lay there is removed.

    Until its digest is known to somebody, nothing in the folder counts. With `parent`, another version's
    folder, the SavedModel is a copy of that one's.

    Returns:
        The artefact's digest.
    """
    shutil.rmtree(folder, ignore_errors=True)
    make_folder(folder)
    if parent is not None:
        _copy_saved_model(parent, folder)
    else:
        module, signatures = _build(head, embedder)
        tf.saved_model.save(module, str(folder), signatures=signatures)
        (folder / LABELS).parent.mkdir(exist_ok=True)
        (folder / LABELS).write_text("".join(f"{label}\n" for label in head.labels), encoding="utf-8")
        write_warmup(folder, _warmup_logs(model, golden))
    failpoint("trainer.after_saved_model")
    head.save(folder / HEAD)
    text = json.dumps(card | describe_code(), indent=1, ensure_ascii=False, sort_keys=True)
    (folder / CARD).write_text(text + "\n", encoding="utf-8")
    failpoint("trainer.before_sums")
    digest = write_sums(folder)
    failpoint("trainer.after_sums")
    return digest


def _copy_saved_model(parent: Path, folder: Path) -> None:
    """All but what this version has of its own. Raises ArtefactInvalid: the parent's was removed."""
    if not (parent / "saved_model.pb").is_file():
        raise ArtefactInvalid(f"{parent.name} has no SavedModel any more, which this version would share.")
    own = shutil.ignore_patterns(HEAD, CARD, SUMS)
    shutil.copytree(parent, folder, ignore=own, dirs_exist_ok=True)


def describe_code() -> dict[str, Any]:
    """What made the artefact: our version, and those of the libraries whose numbers are in it."""
    libraries = {name: version(name) for name in _LIBRARIES}
    return {"code": version("backtalk"), "libraries": libraries | {"python": platform.python_version()}}


def _build(head: Head, embedder: Embedder) -> tuple[Any, dict[str, Any]]:
    """The backbone is in the graph as constants, shared by both signatures; the head's are the variables."""
    module = tf.Module()
    module.weights = tf.Variable(head.weights, trainable=False)
    module.bias = tf.Variable(head.bias, trainable=False)
    module.temperature = tf.Variable(head.temperature, dtype=tf.float32, trainable=False)

    def answer(image: Any) -> tuple[Any, Any]:
        # The head reads what is stored: float16. As float32 again, since JSON clients know no float16.
        embedding = tf.cast(tf.cast(embedder.embed(image), tf.float16), tf.float32)
        logits = tf.linalg.matmul(embedding, module.weights, transpose_b=True) + module.bias
        return tf.nn.softmax(logits / module.temperature), embedding

    def serve_tensor(image: Any) -> dict[str, Any]:
        scores, embedding = answer(image)
        return {SCORES: scores, EMBEDDING: embedding}

    def serve_bytes(image_bytes: Any) -> dict[str, Any]:
        shape = tf.TensorSpec(embedder.image_shape[1:], tf.uint8)
        images = tf.map_fn(
            lambda data: decode_input(data, embedder.input_size), image_bytes, fn_output_signature=shape
        )
        return {SCORES: answer(images)[0]}

    tensor = tf.TensorSpec(embedder.image_shape, tf.uint8, name=IMAGE)
    strings = tf.TensorSpec([None], tf.string, name=IMAGE_BYTES)
    return module, {
        TENSOR_SIGNATURE: tf.function(serve_tensor).get_concrete_function(tensor),
        BYTES_SIGNATURE: tf.function(serve_bytes).get_concrete_function(strings),
    }


def _warmup_logs(model: str, golden: Golden) -> list[bytes]:
    """One request for each signature, of a grey picture: an artefact is never changed, so nothing that
    somebody may want deleted lies in it."""
    grey = np.full_like(golden.inputs[:1], 128)
    image = tf.make_tensor_proto(grey).SerializeToString()
    encoded = tf.make_tensor_proto([tf.io.encode_jpeg(grey[0]).numpy()], dtype=tf.string).SerializeToString()
    return [
        encode_prediction_log(model, TENSOR_SIGNATURE, IMAGE, image),
        encode_prediction_log(model, BYTES_SIGNATURE, IMAGE_BYTES, encoded),
    ]

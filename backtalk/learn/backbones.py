"""Makes backbones and puts them into the store; gives them back as TensorFlow functions.

`_backbones/<digest>/` holds `backbone.tflite`, whose SHA-256 is the digest; `backbone.json`; `graph.pb`, the
same net for TensorFlow, which goes into the SavedModel of every head; `weights.npz`, for whoever trains it
further; and `SHA256SUMS`.
"""

import json
import shutil
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from functools import cache
from hashlib import sha256
from pathlib import Path
from typing import Any
from uuid import uuid4

import numpy as np
from numpy.typing import NDArray

from backtalk.errors import ArtefactInvalid, InvalidInput
from backtalk.learn.architectures import get_architecture
from backtalk.learn.flow import tf
from backtalk.runtime import DESCRIPTION, FLATBUFFER
from backtalk.sums import SUMS, make_folder, sync_folder, verify_sums, write_sums

GRAPH = "graph.pb"
QUANTISED = "-int8"  # ends the name of a backbone of 8-bit integers
WEIGHTS = "weights.npz"
INPUT, OUTPUT = "image", "Identity"  # the nodes of `graph.pb`


@dataclass(frozen=True)
class Prepared:
    """A backbone in the store."""

    name: str
    digest: str
    source_digest: str
    input_size: int
    width: int
    quantised_from: str | None = None  # digest of the float backbone that an 8-bit one was made from


def prepare_backbone(
    name: str, store: Path, input_size: int | None = None, weights: str | None = None
) -> Prepared:
    """Put a backbone into the store, unless it is there. Atomic: it appears whole or not at all.

    Args:
        input_size: side of its images; the architecture's own if none.
        weights: a file, or `random`; if none, wherever its ImageNet weights are found.

    Raises:
        InvalidInput: no backbone of that name, or a size that it cannot take.
        WeightsRefused: its weights are not there, or not what they should be.
        ArtefactInvalid: it is there, but damaged.
    """
    architecture = get_architecture(name)
    size = architecture.check_size(input_size)
    source = architecture.find_weights(weights)
    source_digest = architecture.digest_source(size, source)
    there = _find_prepared(store / "_backbones", source_digest)
    if there is not None:
        return there
    return _put(store, architecture.build_filled(size, source), name, source_digest)


def put_tuned(store: Path, model: Any, name: str) -> Prepared:
    """Put a backbone into the store that a full run has moved; where it came from is the run's to say.

    It is a float one, whatever it began with.
    """
    values = sha256(b"tuned")
    for value in model.weights:
        values.update(np.ascontiguousarray(value.numpy()).tobytes())
    return _put(store, model, name.removesuffix(QUANTISED), values.hexdigest())


def put_quantised(store: Path, parent: Path, images: Sequence[NDArray[np.uint8]]) -> Prepared:
    """Put an 8-bit copy of a backbone into the store: LiteRT full-integer, uint8 in, float32 out.

    Its `graph.pb` and `weights.npz` are the parent's: TensorFlow has no use for the 8-bit one, and whoever
    trains it further goes on from the float weights.

    Args:
        parent: the float backbone's folder.
        images: (S, S, 3) each, such as it will see: the ranges of all activations are measured on them
            (Jacob et al., 2018).

    Raises:
        ArtefactInvalid: the parent is missing or damaged.
        InvalidInput: the parent is one of 8-bit integers itself.
    """
    model, described = load_model(parent)
    if described.quantised_from is not None:
        raise InvalidInput("The champion's backbone is 8-bit already: there is nothing to make smaller.")
    converter = tf.lite.TFLiteConverter.from_concrete_functions(
        [_freeze(model, described.input_size, 1)], tf.Module()
    )
    converter.optimizations = [tf.lite.Optimize.DEFAULT]
    converter.representative_dataset = lambda: ([image[None]] for image in images)
    converter.target_spec.supported_ops = [tf.lite.OpsSet.TFLITE_BUILTINS_INT8]
    flatbuffer = converter.convert()

    def write(folder: Path) -> Prepared:
        digest = sha256(flatbuffer).hexdigest()
        name = f"{described.name}{QUANTISED}"
        size, width = described.input_size, described.width
        made = Prepared(name, digest, f"int8:{digest}", size, width, described.digest)
        (folder / FLATBUFFER).write_bytes(flatbuffer)
        for kept in (GRAPH, WEIGHTS):
            shutil.copyfile(parent / kept, folder / kept)
        return made

    return _put_folder(store, write)


def load_model(folder: Path) -> tuple[Any, Prepared]:
    """A backbone of the store as a Keras model, to be trained further.

    Raises:
        ArtefactInvalid: it is missing or damaged.
        InvalidInput: this release does not know its architecture.
    """
    verify_backbone(folder)
    described = Prepared(**json.loads((folder / DESCRIPTION).read_text(encoding="utf-8")))
    model = get_architecture(described.name.removesuffix(QUANTISED)).build(described.input_size)
    with np.load(folder / WEIGHTS, allow_pickle=False) as stored:
        # Written by earlier releases, they have their paths for names.
        by_place = _name_weight(0) in stored
        for place, value in enumerate(model.weights):
            value.assign(stored[_name_weight(place) if by_place else value.path])
    return model, described


def _name_weight(place: int) -> str:
    """By its place: Keras numbers what has no name anew with every net that a process builds."""
    return f"{place:05d}"


def _put(store: Path, model: Any, name: str, source_digest: str) -> Prepared:
    return _put_folder(store, lambda folder: _write(model, name, source_digest, folder))


def _put_folder(store: Path, write: Callable[[Path], Prepared]) -> Prepared:
    """`write` fills a folder, all but description and sums."""
    root = store / "_backbones"
    aside = root / f".new-{uuid4().hex}"
    make_folder(aside)
    try:
        prepared = write(aside)
        (aside / DESCRIPTION).write_text(json.dumps(asdict(prepared), indent=1), encoding="utf-8")
        write_sums(aside)
        _publish(aside, root / prepared.digest)
    finally:
        shutil.rmtree(aside, ignore_errors=True)
    return prepared


def _find_prepared(root: Path, source_digest: str) -> Prepared | None:
    for path in sorted(root.glob(f"[0-9a-f]*/{DESCRIPTION}")):
        try:
            described = json.loads(path.read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise ArtefactInvalid(f"{path} cannot be read: {error}") from None
        if described["source_digest"] == source_digest:
            verify_backbone(path.parent)
            return Prepared(**described)
    return None


def verify_backbone(folder: Path) -> None:
    """Prove that a backbone's files are whole, and its flatbuffer the one that its digest names.

    Raises:
        ArtefactInvalid: they are not; removing the folder makes `prepare_backbone` write it anew.
    """
    try:
        digest = sha256((folder / SUMS).read_bytes()).hexdigest()
        named = sha256((folder / FLATBUFFER).read_bytes()).hexdigest()
    except OSError as error:
        raise ArtefactInvalid(f"{folder} lacks {Path(error.filename).name}.") from None
    verify_sums(folder, digest)
    if named != folder.name:
        raise ArtefactInvalid(f"{folder / FLATBUFFER} is not the file that the folder's name promises.")


def _write(model: Any, name: str, source_digest: str, folder: Path) -> Prepared:
    size, width = int(model.input_shape[1]), int(model.output_shape[-1])
    flatbuffer = tf.lite.TFLiteConverter.from_concrete_functions(
        [_freeze(model, size, 1)], tf.Module()
    ).convert()
    prepared = Prepared(name, sha256(flatbuffer).hexdigest(), source_digest, size, width)
    (folder / FLATBUFFER).write_bytes(flatbuffer)
    graph = _freeze(model, size, None).graph.as_graph_def()
    (folder / GRAPH).write_bytes(graph.SerializeToString(deterministic=True))
    arrays = {_name_weight(place): value.numpy() for place, value in enumerate(model.weights)}
    np.savez(folder / WEIGHTS, **arrays)
    return prepared


def _freeze(model: Any, size: int, batch: int | None) -> Any:
    """The net as a TensorFlow function whose weights are constants: (batch, S, S, 3) uint8 → (batch, D)."""
    from tensorflow.python.framework.convert_to_constants import convert_variables_to_constants_v2

    traced = tf.function(lambda image: model(image, training=False)).get_concrete_function(
        tf.TensorSpec([batch, size, size, 3], tf.uint8, name=INPUT)
    )
    return convert_variables_to_constants_v2(traced)


def _publish(aside: Path, target: Path) -> None:
    try:
        aside.rename(target)
    except OSError:
        if not target.is_dir():
            raise
        verify_backbone(target)  # another process was faster; both wrote the same
    sync_folder(target.parent)


def read_input_size(folder: Path) -> int:
    """The side of a backbone's images, in pixels."""
    described = json.loads((folder / DESCRIPTION).read_text(encoding="utf-8"))
    return int(described["input_size"])


# --- for TensorFlow ----------------------------------------------------------------------------
@dataclass(frozen=True, eq=False)
class Embedder:
    """A backbone as a TensorFlow function: images (N, S, S, 3) uint8 → embeddings (N, D) float32."""

    digest: str
    input_size: int
    width: int
    embed: Callable[[Any], Any]

    @property
    def image_shape(self) -> list[int | None]:
        return [None, self.input_size, self.input_size, 3]


@cache
def load_embedder(folder: Path) -> Embedder:
    """Load a backbone's `graph.pb`, once per process.

    Raises:
        ArtefactInvalid: the backbone is missing or damaged.
    """
    verify_backbone(folder)
    described = Prepared(**json.loads((folder / DESCRIPTION).read_text(encoding="utf-8")))
    graph = tf.compat.v1.GraphDef.FromString((folder / GRAPH).read_bytes())

    def run(image: Any) -> Any:
        return tf.graph_util.import_graph_def(graph, {INPUT: image}, [f"{OUTPUT}:0"], name="backbone")[0]

    shape = [None, described.input_size, described.input_size, 3]
    embed = tf.compat.v1.wrap_function(run, [tf.TensorSpec(shape, tf.uint8, name=INPUT)])
    return Embedder(described.digest, described.input_size, described.width, embed)

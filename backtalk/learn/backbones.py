"""Makes backbones and puts them into the store; gives them back as TensorFlow functions.

`_backbones/<digest>/` holds `backbone.tflite`, whose SHA-256 is the digest; `backbone.json`; `graph.pb`, the
same net for TensorFlow, which goes into the SavedModel of every head; `weights.npz`, for whoever trains it
further; and `SHA256SUMS`.
"""

import json
import shutil
from collections.abc import Callable
from dataclasses import asdict, dataclass
from functools import cache
from hashlib import file_digest, sha256
from pathlib import Path
from typing import Any
from uuid import uuid4

import numpy as np

from backtalk.errors import ArtefactInvalid, InvalidInput
from backtalk.learn.flow import tf
from backtalk.learn.weights import get_lite0_path, read_legacy_torch
from backtalk.runtime import DESCRIPTION, FLATBUFFER
from backtalk.sums import SUMS, make_folder, sync_folder, verify_sums, write_sums

GRAPH = "graph.pb"
WEIGHTS = "weights.npz"
INPUT, OUTPUT = "image", "Identity"  # the nodes of `graph.pb`
TINY_SEED = 3


@dataclass(frozen=True)
class Recipe:
    """How a backbone is made. `build` returns a Keras model; a change of it wants another `revision`."""

    name: str
    revision: int
    input_size: int
    width: int
    weights_sha256: Callable[[], str]
    build: Callable[[], Any]

    def source_digest(self) -> str:
        """SHA-256 over the weights and the recipe: the same source is never made twice."""
        source = [self.name, self.revision, self.input_size, self.width, self.weights_sha256()]
        return sha256(json.dumps(source).encode()).hexdigest()


@dataclass(frozen=True)
class Prepared:
    """A backbone in the store."""

    name: str
    digest: str
    source_digest: str
    input_size: int
    width: int


def _build_lite0() -> Any:
    from backtalk.learn import networks

    model = networks.build_lite0()
    networks.fill_lite0(model, read_legacy_torch(get_lite0_path()))
    return model


def _digest_lite0() -> str:
    with get_lite0_path().open("rb") as file:
        return file_digest(file, "sha256").hexdigest()


def _build_tiny() -> Any:
    from backtalk.learn import networks

    model = networks.build_tiny()
    networks.fill_tiny(model, TINY_SEED)
    return model


RECIPES = {
    recipe.name: recipe
    for recipe in (
        Recipe("efficientnet-lite0", 1, 224, 1280, _digest_lite0, _build_lite0),
        Recipe("tiny", 1, 32, 16, lambda: f"random {TINY_SEED}", _build_tiny),
    )
}


def prepare_backbone(name: str, store: Path) -> Prepared:
    """Put a backbone into the store, unless it is there. Atomic: it appears whole or not at all.

    Raises:
        InvalidInput: no backbone of that name.
        WeightsRefused: its weights are not installed, or not what they should be.
        ArtefactInvalid: it is there, but damaged.
    """
    recipe = RECIPES.get(name)
    if recipe is None:
        raise InvalidInput(f"There is no backbone {name!r}: use {' or '.join(sorted(RECIPES))}.")
    root = store / "_backbones"
    source_digest = recipe.source_digest()
    there = _find_prepared(root, source_digest)
    if there is not None:
        return there
    aside = root / f".new-{uuid4().hex}"
    make_folder(aside)
    try:
        prepared = _write(recipe, source_digest, aside)
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


def _write(recipe: Recipe, source_digest: str, folder: Path) -> Prepared:
    model = recipe.build()
    flatbuffer = tf.lite.TFLiteConverter.from_concrete_functions(
        [_freeze(model, recipe, 1)], tf.Module()
    ).convert()
    digest = sha256(flatbuffer).hexdigest()
    prepared = Prepared(recipe.name, digest, source_digest, recipe.input_size, recipe.width)
    (folder / FLATBUFFER).write_bytes(flatbuffer)
    graph = _freeze(model, recipe, None).graph.as_graph_def()
    (folder / GRAPH).write_bytes(graph.SerializeToString(deterministic=True))
    np.savez(folder / WEIGHTS, **{value.path: value.numpy() for value in model.variables})
    (folder / DESCRIPTION).write_text(json.dumps(asdict(prepared), indent=1), encoding="utf-8")
    return prepared


def _freeze(model: Any, recipe: Recipe, batch: int | None) -> Any:
    """The net as a TensorFlow function whose weights are constants: (batch, S, S, 3) uint8 → (batch, D)."""
    from tensorflow.python.framework.convert_to_constants import convert_variables_to_constants_v2

    shape = [batch, recipe.input_size, recipe.input_size, 3]
    traced = tf.function(lambda image: model(image, training=False)).get_concrete_function(
        tf.TensorSpec(shape, tf.uint8, name=INPUT)
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

"""The SavedModel, as TensorFlow Serving would use it: signatures, pixels and warm-up requests."""

import struct
from collections.abc import Iterator
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from backtalk.golden import Golden
from backtalk.heads import Head
from backtalk.images import decode, to_input
from backtalk.runtime import Backbone
from tests.unit.test_warmup import make_prediction_log

tf = pytest.importorskip("backtalk.learn.flow").tf

LABELS = ("gut", "schlecht", "unklar – später")


def draw(width: int, height: int, seed: int = 0) -> Image.Image:
    """A picture with smooth parts and sharp ones."""
    random = np.random.default_rng(seed)
    coarse = Image.fromarray(random.integers(0, 256, (7, 9, 3), np.uint8))
    smooth = np.asarray(coarse.resize((width, height), Image.Resampling.BICUBIC)).astype(int)
    return Image.fromarray((smooth + random.integers(-12, 13, smooth.shape)).clip(0, 255).astype(np.uint8))


def encode(image: Image.Image, kind: str, **options: Any) -> bytes:
    file = BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


FILES = [encode(draw(50 + 7 * n, 80 - 3 * n, n), "PNG" if n % 2 else "JPEG") for n in range(12)]


@pytest.fixture(scope="module")
def head(tiny_folder: Path) -> Head:
    random = np.random.default_rng(0)
    weights = random.normal(0, 3, (3, 16)).astype(np.float32)
    return Head(weights, np.zeros(3, np.float32), 1.5, LABELS, tiny_folder.name)


@pytest.fixture(scope="module")
def inputs() -> np.ndarray:
    return np.stack([to_input(decode(data).pixels, 32) for data in FILES])


@pytest.fixture(scope="module")
def artefact(
    tmp_path_factory: pytest.TempPathFactory, tiny_folder: Path, head: Head, inputs: np.ndarray
) -> Path:
    from backtalk.learn.backbones import load_embedder
    from backtalk.learn.export import write_artefact

    folder = tmp_path_factory.mktemp("store") / "1"
    write_artefact(
        folder,
        head=head,
        embedder=load_embedder(tiny_folder),
        golden=Golden(inputs, tuple(FILES)),
        model="parts",
        card={"labels": list(LABELS), "backbone_digest": head.backbone_digest},
    )
    return folder


@pytest.fixture(scope="module")
def signatures(artefact: Path) -> dict[str, Any]:
    loaded = tf.saved_model.load(str(artefact))
    return {name: loaded.signatures[name] for name in ("serving_default", "serve_bytes")} | {"keep": loaded}


def test_tensors_get_the_scores_and_the_embedding_that_serve(
    signatures: dict[str, Any], tiny_folder: Path, head: Head, inputs: np.ndarray
) -> None:
    answer = signatures["serving_default"](image=tf.constant(inputs))
    embeddings = Backbone(tiny_folder, 1).embed(inputs)
    assert np.abs(answer["scores"].numpy() - head.scores(embeddings)).max() < 1e-3
    found = answer["embedding"].numpy()
    assert found.dtype == np.float32
    assert np.array_equal(found, found.astype(np.float16))  # rounded in the graph, as it is stored
    assert np.abs(found - embeddings.astype(np.float32)).max() < 2e-3


def test_files_get_the_scores_of_their_pixels(
    signatures: dict[str, Any], tiny_folder: Path, head: Head, inputs: np.ndarray
) -> None:
    scores = signatures["serve_bytes"](image_bytes=tf.constant(FILES))["scores"].numpy()
    expected = head.scores(Backbone(tiny_folder, 1).embed(inputs))
    assert np.abs(scores - expected).max() < 0.02
    assert scores.shape == (12, 3)


def test_labels_are_listed_line_by_line(artefact: Path) -> None:
    assert (artefact / "assets" / "labels.txt").read_text(encoding="utf-8").splitlines() == list(LABELS)


def read_records(path: Path) -> Iterator[bytes]:
    """TFRecord: length, checksum of the length, data, checksum of the data."""
    with path.open("rb") as file:
        while header := file.read(12):
            (length,) = struct.unpack("<Q", header[:8])
            yield file.read(length)
            file.read(4)


def test_the_version_can_answer_its_own_warmup_requests(artefact: Path, signatures: dict[str, Any]) -> None:
    log_class, tensor_class = make_prediction_log(), type(tf.make_tensor_proto(0))
    path = artefact / "assets.extra" / "tf_serving_warmup_requests"
    records = list(read_records(path))
    assert records == list(tf.data.TFRecordDataset(str(path)).as_numpy_iterator())  # which checks the sums
    logs = [log_class.FromString(record).predict_log for record in records]
    assert [log.request.model_spec.signature_name for log in logs] == ["serving_default", "serve_bytes"]
    for record in records:
        request = log_class.FromString(record).predict_log.request
        assert request.model_spec.name == "parts"
        [(name, serialised)] = request.inputs.items()
        tensor = tf.make_ndarray(tensor_class.FromString(serialised))
        answer = signatures[request.model_spec.signature_name](**{name: tf.constant(tensor)})
        assert answer["scores"].shape == (1, 3)


@pytest.mark.parametrize(
    "size", [(224, 224), (300, 300), (640, 427), (225, 500), (31, 47), (2000, 1500), (1, 1)]
)
@pytest.mark.parametrize("kind", ["JPEG", "PNG"])
def test_tensorflow_sees_the_pixels_that_pillow_sees(size: tuple[int, int], kind: str) -> None:
    from backtalk.learn.pixels import decode_input

    data = encode(draw(*size), kind)
    for side in (32, 224):
        found = decode_input(tf.constant(data), side).numpy().astype(int)
        difference = np.abs(found - to_input(decode(data).pixels, side))
        assert difference.max() <= 1
        assert (difference > 0).mean() < 0.01


@pytest.mark.parametrize("mode", ["L", "LA", "RGBA", "P", "CMYK", "I;16"])
def test_every_kind_of_colour_is_read_alike(mode: str) -> None:
    from backtalk.learn.pixels import decode_input

    image = draw(90, 70)
    if mode == "I;16":
        image = Image.fromarray(np.asarray(image.convert("L")).astype(np.uint16) * 251)
    elif mode == "RGBA":
        image.putalpha(draw(90, 70, 1).convert("L"))
    else:
        image = image.convert(mode)
    data = encode(image, "JPEG" if mode == "CMYK" else "PNG")
    found = decode_input(tf.constant(data), 32).numpy().astype(int)
    difference = np.abs(found - to_input(decode(data).pixels, 32))
    assert difference.max() <= 1
    assert (difference > 0).mean() < 0.05


@pytest.mark.parametrize(("differing", "refused"), [(0, False), (4, False), (5, True), (32, True)])
def test_an_8_bit_version_is_refused_only_where_its_answers_cannot_well_be_alike(
    differing: int, refused: bool
) -> None:
    from backtalk.errors import ArtefactInvalid
    from backtalk.learn.verify import compare_quantised

    expected = np.tile(np.array([0.9, 0.1], np.float32), (32, 1))
    found = expected.copy()
    found[:differing] = found[:differing, ::-1]
    if refused:
        with pytest.raises(ArtefactInvalid, match="too few for 95% of all images"):
            compare_quantised(found, expected)
    else:
        assert compare_quantised(found, expected)["same_label"] == 1 - differing / 32

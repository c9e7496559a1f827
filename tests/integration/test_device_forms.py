"""What is in a file for devices: it is run by nothing of Backtalk's, and says what the API says."""

import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from backtalk.devicecheck import check_file, read_labels
from backtalk.errors import ArtefactInvalid
from backtalk.golden import read_golden
from backtalk.heads import Head
from backtalk.runtime import Backbone
from backtalk.states import DeviceForm
from tests.clients import Api
from tests.device_files import GOLDEN, Write, run_outside
from tests.device_files import animals as animals  # noqa: PLC0414
from tests.device_files import integer_folder as integer_folder  # noqa: PLC0414
from tests.device_files import small_animals as small_animals  # noqa: PLC0414
from tests.device_files import write as write  # noqa: PLC0414
from tests.served import LABELS, make_jpeg

FLOAT_FORMS = (DeviceForm.FLOAT32, DeviceForm.FLOAT16, DeviceForm.DYNAMIC)


@pytest.mark.parametrize("form", DeviceForm)
def test_each_form_runs_outside_of_backtalk_and_says_what_the_api_says(
    form: DeviceForm, request: pytest.FixtureRequest, write: Write, tmp_path: Path
) -> None:
    api: Api = request.getfixturevalue("small_animals" if form is DeviceForm.INT8 else "animals")
    file = write(api.system, form)
    picture = make_jpeg(501, (90, 70))
    answer = api.post("/v1/models/animals:predict", data=picture, content_type="image/jpeg")
    (said,) = answer.get_json()["predictions"]
    label, scores = run_outside(tmp_path, file, picture)
    assert label == said["label"]
    assert np.abs(scores - said["scores"]).max() < (1e-3 if form is DeviceForm.FLOAT32 else 0.05)


@pytest.mark.parametrize("form", [*FLOAT_FORMS, DeviceForm.INT8])
def test_each_form_agrees_with_what_serves_on_the_golden_images(
    form: DeviceForm, request: pytest.FixtureRequest, write: Write
) -> None:
    api: Api = request.getfixturevalue("small_animals" if form is DeviceForm.INT8 else "animals")
    head = Head.load(api.system.versions.root / "animals" / "1" / "head.npz")
    backbone = Backbone(api.system.versions.backbone_dir(head.backbone_digest), 1)
    golden = read_golden(api.system.versions.golden_path("animals"))
    found = check_file(write(api.system, form), form, head, backbone, golden)
    assert found["n"] == GOLDEN
    assert found["same_label"] >= 0.95
    assert found["max_abs_diff"] < (1e-3 if form is DeviceForm.FLOAT32 else 0.1)


def test_smaller_forms_are_smaller_and_the_integer_one_knows_no_float(
    animals: Api, write: Write, integer_folder: Path, tiny_folder: Path
) -> None:
    sizes = [write(animals.system, form).stat().st_size for form in FLOAT_FORMS]
    assert sizes == sorted(sizes, reverse=True)
    schema = pytest.importorskip("ai_edge_litert.schema_py_generated")
    integers = pytest.importorskip("backtalk.learn.integers")
    head = Head(
        np.ones((3, 16), np.float32), np.zeros(3, np.float32), 1.0, LABELS, integer_folder.name
    )  # only its shape counts here
    backbone = (integer_folder / "backbone.tflite").read_bytes()
    joined = integers.join_integer_head(backbone, head, np.ones((2, 3), np.float32))
    graph = schema.ModelT.InitFromPackedBuf(joined, 0).subgraphs[0]
    used = {int(n) for operator in graph.operators for n in [*operator.inputs, *operator.outputs]}
    floats = [graph.tensors[n].name for n in used if graph.tensors[n].type == schema.TensorType.FLOAT32]
    assert floats == []
    with pytest.raises(ArtefactInvalid, match="does not begin"):
        integers.join_integer_head((tiny_folder / "backbone.tflite").read_bytes(), head, np.ones((2, 3)))


def find_misaligned(data: bytes) -> list[int]:
    """Buffers of weights that do not begin at a multiple of 16 bytes, as the schema wants them to."""
    schema = pytest.importorskip("ai_edge_litert.schema_py_generated")
    model = schema.Model.GetRootAs(data, 0)
    start = np.frombuffer(data, np.uint8).ctypes.data
    buffers = [model.Buffers(number) for number in range(model.BuffersLength())]
    return [n for n, one in enumerate(buffers) if one.DataLength() and _offset(one, start) % 16]


def _offset(buffer: Any, start: int) -> int:
    return int(buffer.DataAsNumpy().ctypes.data) - start


def test_the_file_tells_its_labels_and_what_it_is_by_the_published_convention(
    animals: Api, write: Write
) -> None:
    file = write(animals.system, DeviceForm.FLOAT32)
    with zipfile.ZipFile(file) as archive:
        assert archive.namelist() == ["labels.txt"]
        assert archive.testzip() is None
    assert read_labels(file) == LABELS
    schema = pytest.importorskip("ai_edge_litert.schema_py_generated")
    model = schema.ModelT.InitFromPackedBuf(file.read_bytes(), 0)
    (entry,) = [one for one in model.metadata if one.name == b"TFLITE_METADATA"]
    metadata = model.buffers[entry.buffer].data.tobytes()
    assert metadata[4:8] == b"M001"
    for word in (b"animals", b"Cats, dogs and owls.", b"Ada", b"CC0-1.0", b"labels.txt", b"scores"):
        assert word in metadata
    (signature,) = model.signatureDefs
    assert [one.name for one in (*signature.inputs, *signature.outputs)] == [b"image", b"scores"]
    first = file.read_bytes()
    assert find_misaligned(first) == []
    file.unlink()
    assert write(animals.system, DeviceForm.FLOAT32).read_bytes() == first  # the same version, the same bytes
    file.write_bytes(first[:-40])
    with pytest.raises(ArtefactInvalid, match="no labels"):
        read_labels(file)

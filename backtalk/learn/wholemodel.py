"""Whole models for devices: backbone and head in one LiteRT file, pixels in, scores out.

The forms are those of post-training quantisation in TensorFlow Lite's converter. An 8-bit version is not
converted anew: see `backtalk.learn.integers`.
"""

import os
from pathlib import Path
from typing import Any

from backtalk.devicecheck import check_form, explain_disk
from backtalk.failpoints import failpoint
from backtalk.golden import read_golden
from backtalk.heads import Head
from backtalk.learn.backbones import GRAPH, INPUT, OUTPUT, verify_backbone
from backtalk.learn.flow import tf
from backtalk.learn.integers import join_integer_head
from backtalk.learn.modelfiles import Description, describe_file
from backtalk.runtime import FLATBUFFER, Backbone
from backtalk.signatures import IMAGE, SCORES
from backtalk.states import DeviceForm


def write_whole_model(command: dict[str, Any]) -> dict[str, Any]:
    """Write one file, synced; it counts only once somebody else has checked and renamed it.

    Args:
        command: `head`, `store`, `golden`, `form`, `target` (paths but for the form), and `name`, `version`,
            `text`, `author`, `licence`, which go into the file.

    Returns:
        `byte_size`.

    Raises:
        ArtefactInvalid: head or backbone is missing or damaged.
        InvalidInput: the backbone cannot be had in this form.
        OutOfRoom, InvalidInput: the disk is full, or the folder of `target` cannot be written.
    """
    head = Head.load(Path(command["head"]))
    folder = Path(command["store"]) / "_backbones" / head.backbone_digest
    verify_backbone(folder)
    backbone = Backbone(folder, 1)
    form = DeviceForm(command["form"])
    check_form(form, integer=backbone.quantised_from is not None)
    if form is DeviceForm.INT8:
        golden = read_golden(Path(command["golden"])).fit(backbone.input_size)
        logits = head.logits(backbone.embed(golden.inputs))
        flatbuffer = join_integer_head((folder / FLATBUFFER).read_bytes(), head, logits)
    else:
        flatbuffer = convert(folder, head, backbone.input_size, form)
    told = {name: str(command[name]) for name in ("name", "version", "text", "author", "licence")}
    described = Description(**told, labels=head.labels, input_size=backbone.input_size)
    data = describe_file(flatbuffer, described)
    _write(Path(command["target"]), data)
    return {"byte_size": len(data)}


def _write(target: Path, data: bytes) -> None:
    try:
        with target.open("xb") as file:
            file.write(data)
            failpoint("devicefile.before_sync")
            file.flush()
            os.fsync(file.fileno())
    except OSError as error:
        raise explain_disk(error, target.parent) from None


def convert(folder: Path, head: Head, size: int, form: DeviceForm) -> bytes:
    """A float backbone with its head: (1, S, S, 3) uint8 → (1, C) float32.

    What serves rounds the embedding to float16; that is left out: accelerators know no such cast, and it
    moves a score by less than `devicecheck.BOUNDS` allows.
    """
    graph = tf.compat.v1.GraphDef.FromString((folder / GRAPH).read_bytes())

    def answer(image: Any) -> dict[str, Any]:
        embedding = tf.graph_util.import_graph_def(graph, {INPUT: image}, [f"{OUTPUT}:0"], name="backbone")[0]
        logits = tf.linalg.matmul(embedding, head.weights, transpose_b=True) + head.bias
        return {SCORES: tf.nn.softmax(logits / head.temperature)}

    shape = tf.TensorSpec([1, size, size, 3], tf.uint8, name=IMAGE)
    traced = tf.function(answer).get_concrete_function(shape)
    converter = tf.lite.TFLiteConverter.from_concrete_functions([traced], tf.Module())
    if form is not DeviceForm.FLOAT32:
        converter.optimizations = [tf.lite.Optimize.DEFAULT]
    if form is DeviceForm.FLOAT16:
        converter.target_spec.supported_types = [tf.float16]
    return bytes(converter.convert())

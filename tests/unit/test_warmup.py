"""Warm-up requests are PredictionLog messages: read back by protobuf's own parser."""

from typing import Any

import pytest
from google.protobuf import descriptor_pb2, descriptor_pool, message_factory

from backtalk.learn.warmup import encode_prediction_log

FIELD = descriptor_pb2.FieldDescriptorProto


def make_prediction_log() -> Any:
    """The class of tensorflow.serving.PredictionLog, as far as it is used; tensors stay bytes."""
    file = descriptor_pb2.FileDescriptorProto(
        name="serving.proto", package="tensorflow.serving", syntax="proto3"
    )
    messages: dict[str, list[tuple[str, int, str | None, int]]] = {
        "ModelSpec": [("name", 1, None, FIELD.TYPE_STRING), ("signature_name", 3, None, FIELD.TYPE_STRING)],
        "PredictRequest": [("model_spec", 1, "ModelSpec", FIELD.TYPE_MESSAGE)],
        "PredictLog": [("request", 1, "PredictRequest", FIELD.TYPE_MESSAGE)],
        "PredictionLog": [("predict_log", 6, "PredictLog", FIELD.TYPE_MESSAGE)],
    }
    for name, fields in messages.items():
        message = file.message_type.add(name=name)
        for field, number, kind, field_type in fields:
            added = message.field.add(name=field, number=number, type=field_type, label=FIELD.LABEL_OPTIONAL)
            if kind:
                added.type_name = f".tensorflow.serving.{kind}"
    request = file.message_type[1]
    entry = request.nested_type.add(name="InputsEntry", options=descriptor_pb2.MessageOptions(map_entry=True))
    entry.field.add(name="key", number=1, type=FIELD.TYPE_STRING, label=FIELD.LABEL_OPTIONAL)
    entry.field.add(name="value", number=2, type=FIELD.TYPE_BYTES, label=FIELD.LABEL_OPTIONAL)
    entry_name = ".tensorflow.serving.PredictRequest.InputsEntry"
    request.field.add(
        name="inputs", number=2, type=FIELD.TYPE_MESSAGE, type_name=entry_name, label=FIELD.LABEL_REPEATED
    )
    pool = descriptor_pool.DescriptorPool()
    pool.Add(file)
    return message_factory.GetMessageClass(pool.FindMessageTypeByName("tensorflow.serving.PredictionLog"))


@pytest.mark.parametrize("size", [0, 1, 127, 128, 300, 70_000, 3_000_000])
def test_a_request_reads_back_as_it_was_meant(size: int) -> None:
    tensor = bytes(range(256)) * (size // 256 + 1)
    log = make_prediction_log().FromString(
        encode_prediction_log("solar-cells", "serve_bytes", "image_bytes", tensor[:size])
    )
    request = log.predict_log.request
    assert request.model_spec.name == "solar-cells"
    assert request.model_spec.signature_name == "serve_bytes"
    assert dict(request.inputs) == {"image_bytes": tensor[:size]}

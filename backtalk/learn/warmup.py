"""The requests that TensorFlow Serving answers to itself before it puts a version into service.

They are `tensorflow.serving.PredictionLog` messages. Only `tensorflow-serving-api` brings their classes, and
it brings another TensorFlow with it; the four messages around the tensors are few enough to write by hand,
after `apis/prediction_log.proto`, `apis/predict.proto` and `apis/model.proto` of tensorflow/serving.
"""

from collections.abc import Iterable
from pathlib import Path

#: Below `assets.extra`, where TensorFlow Serving looks for them.
WARMUP_FILE = "tf_serving_warmup_requests"


def encode_prediction_log(model: str, signature: str, tensor_name: str, tensor: bytes) -> bytes:
    """A PredictionLog of one request to `signature` with one input.

    Args:
        tensor: a serialised `tensorflow.TensorProto`.
    """
    model_spec = _field(1, model.encode()) + _field(3, signature.encode())
    entry = _field(1, tensor_name.encode()) + _field(2, tensor)  # one entry of map<string, TensorProto>
    predict_request = _field(1, model_spec) + _field(2, entry)
    predict_log = _field(1, predict_request)
    return _field(6, predict_log)


def _field(number: int, value: bytes) -> bytes:
    """A length-delimited field (protocol buffers encoding: tag, length, value)."""
    return _varint(number << 3 | 2) + _varint(len(value)) + value


def _varint(value: int) -> bytes:
    out = bytearray()
    while value > 0x7F:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)
    return bytes(out)


def write_warmup(folder: Path, logs: Iterable[bytes]) -> None:
    """Write the requests as TFRecord, at most 1,000, into `folder`/assets.extra."""
    from backtalk.learn.flow import tf

    path = folder / "assets.extra" / WARMUP_FILE
    path.parent.mkdir(exist_ok=True)
    with tf.io.TFRecordWriter(str(path)) as writer:
        for log in logs:
            writer.write(log)

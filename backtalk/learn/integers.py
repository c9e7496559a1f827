"""Puts a head of 8-bit integers on an 8-bit backbone, so that the whole file computes in integers.

The backbone stays the one that was judged and serves, bit for bit; converting the version anew would measure
other ranges. Arithmetic as in Jacob et al. (2018) and TensorFlow Lite's 8-bit quantisation specification.
"""

from typing import Any

import numpy as np
from ai_edge_litert import schema_py_generated as schema
from numpy.typing import NDArray

from backtalk.errors import ArtefactInvalid
from backtalk.heads import Head
from backtalk.learn.modelfiles import add_buffer, pack_model, unpack_model
from backtalk.signatures import SCORES

#: Pictures to come may have larger logits than those that the range was measured on.
HEADROOM = 1.25
_OPERATOR, _TYPE = schema.BuiltinOperator, schema.TensorType
_STEPS = 255


def join_integer_head(flatbuffer: bytes, head: Head, logits: NDArray[np.float32]) -> bytes:
    """Join them: (1, S, S, 3) uint8 → (1, C) uint8, whose value ÷ 256 is the score.

    Args:
        flatbuffer: the backbone, which begins with uint8 → float32 → int8 and ends with int8 → float32.
        logits: (N, C) of typical pictures: the range of the head's answers is measured on them.

    Raises:
        ArtefactInvalid: the backbone begins or ends otherwise.
    """
    graph = _Graph(unpack_model(flatbuffer))
    graph.read_pixels_directly()
    embedding = graph.cut_last_cast()
    step_in = float(graph.tensors[embedding].quantization.scale[0])
    weights = head.weights / np.float32(head.temperature)
    step_weights = float(np.abs(weights).max()) / 127 or 1.0
    step_bias = step_in * step_weights
    whole = np.clip(np.rint(weights / step_weights), -127, 127).astype(np.int8)
    bias = np.rint(head.bias / np.float32(head.temperature) / step_bias).astype(np.int32)
    step_logits, zero_logits = _measure(logits)
    classes = len(head.labels)
    made_weights = graph.add("head/weights", whole, step_weights, 0)
    made_bias = graph.add("head/bias", bias, step_bias, 0)
    made_logits = graph.add("head/logits", _Empty((1, classes), np.int8), step_logits, zero_logits)
    softmax = graph.add("head/softmax", _Empty((1, classes), np.int8), 1 / 256, -128)
    scores = graph.add(SCORES, _Empty((1, classes), np.uint8), 1 / 256, 0)
    graph.operate(_OPERATOR.FULLY_CONNECTED, 4, [embedding, made_weights, made_bias], made_logits, _dense())
    graph.operate(_OPERATOR.SOFTMAX, 2, [made_logits], softmax, _softmax())
    graph.operate(_OPERATOR.QUANTIZE, 2, [softmax], scores, (schema.BuiltinOptions.QuantizeOptions, None))
    graph.answer_with(scores)
    return pack_model(graph.model)


def _measure(logits: NDArray[np.float32]) -> tuple[float, int]:
    """Step and zero point of int8 that hold these values, with headroom, and zero exactly."""
    low = min(0.0, float(logits.min()) * HEADROOM)
    high = max(0.0, float(logits.max()) * HEADROOM)
    step = (high - low) / _STEPS or 1.0
    return step, round(-128 - low / step)


class _Empty:
    """The shape and type of something that is computed."""

    def __init__(self, shape: tuple[int, ...], dtype: Any) -> None:
        self.shape, self.dtype = shape, np.dtype(dtype)


_TYPES = {"int8": _TYPE.INT8, "uint8": _TYPE.UINT8, "int32": _TYPE.INT32}


def _dense() -> tuple[int, Any]:
    return schema.BuiltinOptions.FullyConnectedOptions, schema.FullyConnectedOptionsT()


def _softmax() -> tuple[int, Any]:
    options = schema.SoftmaxOptionsT()
    options.beta = 1.0
    return schema.BuiltinOptions.SoftmaxOptions, options


class _Graph:
    """The one graph of a model, with the few changes that are needed."""

    def __init__(self, model: Any) -> None:
        self.model = model
        self.graph = model.subgraphs[0]
        self.tensors = self.graph.tensors

    def _code(self, operator: Any) -> int:
        found = self.model.operatorCodes[operator.opcodeIndex]
        return max(int(found.builtinCode), int(found.deprecatedBuiltinCode))

    def read_pixels_directly(self) -> None:
        """uint8 → float32 → int8 becomes uint8 → int8: an accelerator for integers knows no float."""
        first, second = self.graph.operators[:2]
        codes = [self._code(first), self._code(second)]
        if codes != [_OPERATOR.CAST, _OPERATOR.QUANTIZE] or first.outputs[0] != second.inputs[0]:
            raise ArtefactInvalid("The 8-bit backbone does not begin with its pixels as integers.")
        image = int(first.inputs[0])
        self.tensors[image].quantization = _quantise(1.0, 0)
        second.inputs = np.array([image], np.int32)
        second.opcodeIndex = self._find_code(_OPERATOR.QUANTIZE, 2)
        self.graph.operators.remove(first)

    def cut_last_cast(self) -> int:
        """Drop int8 → float32 at the end; the tensor before it."""
        last = self.graph.operators[-1]
        if self._code(last) != _OPERATOR.DEQUANTIZE or last.outputs[0] != self.graph.outputs[0]:
            raise ArtefactInvalid("The 8-bit backbone does not end with its embedding as integers.")
        self.graph.operators.remove(last)
        return int(last.inputs[0])

    def add(self, name: str, value: Any, step: float, zero: int) -> int:
        """A tensor: constant where `value` is an array, else computed. Returns its number."""
        tensor = schema.TensorT()
        tensor.name, tensor.shape = name, np.array(value.shape, np.int32)
        tensor.type = _TYPES[value.dtype.name]
        tensor.buffer = add_buffer(self.model, value.tobytes()) if isinstance(value, np.ndarray) else 0
        tensor.quantization = _quantise(step, zero)
        self.tensors.append(tensor)
        return len(self.tensors) - 1

    def operate(
        self, code: int, version: int, inputs: list[int], output: int, options: tuple[int, Any]
    ) -> None:
        operator = schema.OperatorT()
        operator.opcodeIndex = self._find_code(code, version)
        operator.inputs, operator.outputs = np.array(inputs, np.int32), np.array([output], np.int32)
        if options[1] is not None:
            operator.builtinOptionsType, operator.builtinOptions = options
        self.graph.operators.append(operator)

    def _find_code(self, code: int, version: int) -> int:
        for number, known in enumerate(self.model.operatorCodes):
            if max(int(known.builtinCode), int(known.deprecatedBuiltinCode)) == code and (
                known.version >= version
            ):
                return number
        added = schema.OperatorCodeT()
        added.builtinCode, added.version = code, version
        added.deprecatedBuiltinCode = min(code, 127)  # readers of before 2020 know this one alone
        self.model.operatorCodes.append(added)
        return len(self.model.operatorCodes) - 1

    def answer_with(self, output: int) -> None:
        """Make it the graph's only output, by the name SCORES."""
        self.graph.outputs = np.array([output], np.int32)
        for signature in self.model.signatureDefs or []:
            (named,) = signature.outputs
            named.name, named.tensorIndex = SCORES, output


def _quantise(step: float, zero: int) -> Any:
    parameters = schema.QuantizationParametersT()
    parameters.scale = np.array([step], np.float32)
    parameters.zeroPoint = np.array([zero], np.int64)
    return parameters

"""What a LiteRT file says of itself: metadata inside the flatbuffer, and its labels as a zip behind it.

The convention is TensorFlow Lite's: a buffer named `TFLITE_METADATA` holds a flatbuffer of the published
schema (tflite-support, metadata/metadata_schema.fbs), and the files that it names are packed as a zip archive
at the end, so that any tool for zip archives lists and unpacks them. The library that wrote both is no longer
kept up, and few of the schema's tables are needed here.
"""

import io
import zipfile
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import flatbuffers
import numpy as np
from ai_edge_litert import schema_py_generated as schema

from backtalk.devicecheck import LABELS

METADATA = "TFLITE_METADATA"
_METADATA_IDENTIFIER, _MODEL_IDENTIFIER = b"M001", b"TFL3"
_PARSER_VERSION = "1.0.0"  # nothing here is newer
# Values of the schema's enumerations and unions.
_AXIS_LABELS, _IMAGE, _FEATURE, _RGB, _NORMALIZATION = 2, 2, 1, 1, 1
_ALIGNMENT = 16  # bytes: as the schema wants of weights, and as vector instructions read them


@dataclass(frozen=True)
class Description:
    """What people and programs read in the file. `licence` may be empty: it then says none."""

    name: str
    version: str
    text: str
    author: str
    licence: str
    labels: tuple[str, ...]
    input_size: int  # side of the picture, in pixels


# --- models ------------------------------------------------------------------------------------
class _Builder(flatbuffers.Builder):  # type: ignore[misc]  # it carries no types
    """Puts weights where the schema wants them, which Python's generated code forgets."""

    def StartVector(self, size: int, count: int, alignment: int) -> Any:  # noqa: N802  # the library's name
        return super().StartVector(size, count, _ALIGNMENT if size == 1 else alignment)


def unpack_model(flatbuffer: bytes) -> Any:
    """A LiteRT flatbuffer as `schema.ModelT`, to be changed."""
    return schema.ModelT.InitFromPackedBuf(flatbuffer, 0)


def pack_model(model: Any) -> bytes:
    """The opposite of `unpack_model`."""
    builder = _Builder(0)
    builder.Finish(model.Pack(builder), _MODEL_IDENTIFIER)
    return bytes(builder.Output())


def add_buffer(model: Any, data: bytes) -> int:
    """Put constant data into a model; the buffer's number."""
    buffer = schema.BufferT()
    buffer.data = np.frombuffer(data, np.uint8)
    model.buffers.append(buffer)
    return len(model.buffers) - 1


# --- writing -----------------------------------------------------------------------------------
def describe_file(flatbuffer: bytes, description: Description) -> bytes:
    """The same model with metadata and labels in it. The same input gives the same bytes."""
    model = unpack_model(flatbuffer)
    entry = schema.MetadataT()
    entry.name = METADATA
    entry.buffer = add_buffer(model, _write_metadata(description))
    model.metadata = [*(model.metadata or []), entry]
    model.description = f"{description.name} {description.version}"
    return _append_zip(pack_model(model), {LABELS: write_labels(description.labels)})


def write_labels(labels: Sequence[str]) -> bytes:
    """One a line, in the order of the scores."""
    return "".join(f"{label}\n" for label in labels).encode()


def _append_zip(data: bytes, files: dict[str, bytes]) -> bytes:
    """Uncompressed, as readers map these files into memory, and without a date."""
    whole = io.BytesIO(data)
    with zipfile.ZipFile(whole, "a", zipfile.ZIP_STORED) as archive:
        for name, content in files.items():
            archive.writestr(zipfile.ZipInfo(name), content)
    return whole.getvalue()


def _write_metadata(description: Description) -> bytes:
    """A `ModelMetadata` with one input and one output."""
    writer = _MetadataWriter()
    image, scores = writer.write_image(description.input_size), writer.write_scores()
    return writer.finish(description, image, scores)


class _MetadataWriter:
    """Writes tables of the schema, whose members go by their slot. Flatbuffers grow from the leaves up."""

    def __init__(self) -> None:
        self._builder = _Builder(1024)

    def write_image(self, side: int) -> int:
        """The input: its name, what it holds, and how to scale it."""
        size = self._table(2, numbers={0: side, 1: side})
        properties = self._table(2, {1: size}, codes={0: _RGB})
        # (x − 0) / 1: the model scales pixels itself, so the caller passes them as they are.
        scaling = self._table(2, {0: self._floats(0.0), 1: self._floats(1.0)})
        return self._tensor(
            "image",
            "One RGB picture, 0 to 255; it is scaled inside.",
            self._table(3, {1: properties}, codes={0: _IMAGE}),
            255.0,
            {4: self._tables(self._table(2, {1: scaling}, codes={0: _NORMALIZATION}))},
        )

    def write_scores(self) -> int:
        """The output, and the file that names what its values are of."""
        said = self._text("One label a line, in the order of the scores.")
        labels = self._table(5, {0: self._text(LABELS), 1: said}, codes={2: _AXIS_LABELS})
        content = self._table(3, {1: self._table(0)}, codes={0: _FEATURE})
        return self._tensor(
            "scores", "One for each label; they add up to 1.", content, 1.0, {6: self._tables(labels)}
        )

    def finish(self, description: Description, image: int, scores: int) -> bytes:
        name = self._text(description.name)
        graph = self._table(7, {0: name, 2: self._tables(image), 3: self._tables(scores)})
        members = {
            0: name,
            1: self._text(description.text),
            2: self._text(description.version),
            3: self._tables(graph),
            4: self._text(description.author),
            7: self._text(_PARSER_VERSION),
        }
        if description.licence:
            members[5] = self._text(description.licence)
        self._builder.Finish(self._table(8, members), _METADATA_IDENTIFIER)
        return bytes(self._builder.Output())

    def _tensor(self, name: str, said: str, content: int, highest: float, more: dict[int, int]) -> int:
        range_ = self._table(2, {0: self._floats(highest), 1: self._floats(0.0)})
        return self._table(7, {0: self._text(name), 1: self._text(said), 3: content, 5: range_} | more)

    def _text(self, value: str) -> int:
        return int(self._builder.CreateString(value))

    def _floats(self, value: float) -> int:
        return int(self._builder.CreateNumpyVector(np.array([value], np.float32)))

    def _tables(self, offset: int) -> int:
        """A vector with one table in it."""
        self._builder.StartVector(4, 1, 4)
        self._builder.PrependUOffsetTRelative(offset)
        return int(self._builder.EndVector())

    def _table(
        self,
        slots: int,
        references: dict[int, int] | None = None,
        *,
        codes: dict[int, int] | None = None,
        numbers: dict[int, int] | None = None,
    ) -> int:
        """Members by slot: offsets of what was written before, codes of one byte, numbers of four."""
        self._builder.StartObject(slots)
        for slot, number in (numbers or {}).items():
            self._builder.PrependUint32Slot(slot, number, 0)
        for slot, offset in (references or {}).items():
            self._builder.PrependUOffsetTRelativeSlot(slot, offset, 0)
        for slot, code in (codes or {}).items():
            self._builder.PrependUint8Slot(slot, code, 0)
        return int(self._builder.EndObject())

"""What a version can be asked: the signatures of its SavedModel, which the API answers too."""

from dataclasses import dataclass

TENSOR_SIGNATURE, BYTES_SIGNATURE = "serving_default", "serve_bytes"
IMAGE, IMAGE_BYTES = "image", "image_bytes"  # their inputs
SCORES, EMBEDDING = "scores", "embedding"  # what they give; `serve_bytes` the former alone


@dataclass(frozen=True, slots=True)
class Tensor:
    """An input or output. `shape` has -1 where any size will do."""

    name: str
    dtype: str  # as NumPy and TensorFlow call it
    shape: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Signature:
    """One way to ask. Each has one input, so a request may leave out its name."""

    input: Tensor
    outputs: tuple[Tensor, ...]


def describe_signatures(*, size: int, width: int, classes: int) -> dict[str, Signature]:
    """The signatures of a version.

    Args:
        size: side of the square image that the backbone reads, in pixels.
        width: of the embedding.
        classes: number of labels.
    """
    scores = Tensor(SCORES, "float32", (-1, classes))
    return {
        TENSOR_SIGNATURE: Signature(
            Tensor(IMAGE, "uint8", (-1, size, size, 3)), (scores, Tensor(EMBEDDING, "float32", (-1, width)))
        ),
        BYTES_SIGNATURE: Signature(Tensor(IMAGE_BYTES, "string", (-1,)), (scores,)),
    }

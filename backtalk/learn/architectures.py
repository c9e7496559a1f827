"""The architectures of backbones: one entry each. Adding one is adding an entry to `ARCHITECTURES`."""

import json
from collections.abc import Callable
from dataclasses import dataclass
from hashlib import file_digest, sha256
from pathlib import Path
from typing import Any, Literal

from backtalk.errors import InvalidInput, WeightsRefused
from backtalk.learn import pretrained
from backtalk.learn.weights import read_legacy_torch

RANDOM = "random"
RANDOM_SEED = 3
SETTLED_AT = 64  # side of the images that norms see: enough for every net, and little to compute
SMALLEST, LARGEST = 32, 1024  # sides of input images

#: A file of weights; none: random ones.
Source = Path | None

#: What a net's pixels, 0 to 255, go through: nothing but what is `inside` it; to -1 … 1 (`tf`); less the mean
#: of ImageNet's colours and by their deviation (`torch`); blue before red, less the mean (`caffe`).
Preprocessing = Literal["inside", "tf", "torch", "caffe"]


@dataclass(frozen=True)
class Architecture:
    """How a net is made. `build` returns a Keras model of uint8 images; a change of it wants a `revision`."""

    name: str
    revision: int
    input_size: int
    build: Callable[[int], Any]
    put: Callable[[Any, Path], None]  # a file's weights into the model; what does not fit raises what it may
    find: Callable[[str | None], Source]  # the file that is named, or wherever its ImageNet weights are
    has_norms: bool = True  # which, with random weights, are set to what images give

    def check_size(self, size: int | None) -> int:
        """Raises InvalidInput: no multiple of 4 from 32 to 1024."""
        size = self.input_size if size is None else size
        if not SMALLEST <= size <= LARGEST or size % 4:
            raise InvalidInput(
                f"An input size of {size} is not taken: use a multiple of 4 from {SMALLEST} to {LARGEST}."
            )
        return size

    def find_weights(self, weights: str | None) -> Source:
        """Raises WeightsRefused."""
        return None if weights == RANDOM else self.find(weights)

    def digest_source(self, size: int, source: Source) -> str:
        """SHA-256 over the weights and how the net is built: the same source is never made twice."""
        said = f"random {RANDOM_SEED}, norms settled" if self.has_norms else f"random {RANDOM_SEED}"
        if source is not None:
            with source.open("rb") as file:
                said = file_digest(file, "sha256").hexdigest()
        return sha256(json.dumps([self.name, self.revision, size, said]).encode()).hexdigest()

    def build_filled(self, size: int, source: Source) -> Any:
        """The model with these weights. Raises WeightsRefused."""
        import keras

        from backtalk.learn.networks import settle_norms

        keras.utils.set_random_seed(RANDOM_SEED)
        model = self.build(size)
        if source is not None:
            pretrained.fill(self.name, model, source, self.put)
        elif self.has_norms:
            settled = self.build(SETTLED_AT)
            settle_norms(settled, RANDOM_SEED)
            model.set_weights(settled.get_weights())
        return model


@dataclass(frozen=True)
class Application:
    """One of Keras Applications: its name here and there, its weights, and what its pixels go through."""

    name: str
    function: str
    published: pretrained.Published
    preprocessing: Preprocessing  # that of its module's `preprocess_input`; a test compares the two


APPLICATIONS = (
    Application("resnet50", "ResNet50", pretrained.RESNET50, "caffe"),
    Application("mobilenet-v3-small", "MobileNetV3Small", pretrained.MOBILENET_V3_SMALL, "inside"),
    Application("mobilenet-v3-large", "MobileNetV3Large", pretrained.MOBILENET_V3_LARGE, "inside"),
    Application("efficientnet-v2-b0", "EfficientNetV2B0", pretrained.EFFICIENTNET_V2_B0, "inside"),
)


def _lite(number: int) -> Architecture:
    def build(size: int) -> Any:
        from backtalk.learn import networks

        return networks.build_lite(number, size)

    def put(model: Any, path: Path) -> None:
        from backtalk.learn import networks

        networks.fill_lite(number, model, read_legacy_torch(path))

    def find(weights: str | None) -> Source:
        return pretrained.find_lite(number, weights)

    return Architecture(f"efficientnet-lite{number}", 1, (224, 240, 260)[number], build, put, find)


def _of_keras(app: Application) -> Architecture:
    def build(size: int) -> Any:
        from backtalk.learn import networks

        return networks.build_application(app.function, size, app.preprocessing)

    def find(weights: str | None) -> Source:
        return pretrained.find(app.published, weights)

    return Architecture(app.name, 1, 224, build, pretrained.load_hdf5, find)


def _tiny() -> Architecture:
    def build(size: int) -> Any:
        from backtalk.learn import networks

        model = networks.build_tiny(size)
        networks.fill_tiny(model, RANDOM_SEED)
        return model

    def find(weights: str | None) -> Source:
        if weights is not None:
            raise WeightsRefused("The net tiny has random weights alone: name no others.")
        return None

    return Architecture("tiny", 1, 32, build, lambda _model, _path: None, find, has_norms=False)


ARCHITECTURES = {
    entry.name: entry
    for entry in (
        *map(_lite, range(3)),
        *map(_of_keras, APPLICATIONS),
        _tiny(),
    )
}


def get_architecture(name: str) -> Architecture:
    """Raises InvalidInput: no backbone of that name."""
    found = ARCHITECTURES.get(name)
    if found is None:
        raise InvalidInput(f"There is no backbone {name!r}: use one of {', '.join(sorted(ARCHITECTURES))}.")
    return found

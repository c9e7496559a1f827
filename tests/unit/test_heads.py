"""Heads: a row's scores are its own, and a file is a head or is refused."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from backtalk.errors import ArtefactInvalid
from backtalk.heads import Head


def make_head(classes: int = 3, width: int = 16, temperature: float = 1.7, seed: int = 0) -> Head:
    draw = np.random.default_rng(seed)
    return Head(
        weights=draw.normal(size=(classes, width)).astype(np.float32),
        bias=draw.normal(size=classes).astype(np.float32),
        temperature=temperature,
        labels=tuple(f"label {i}" for i in range(classes)),
        backbone_digest="b" * 64,
    )


def make_embeddings(count: int, width: int = 16, seed: int = 1) -> NDArray[np.float16]:
    return np.random.default_rng(seed).gamma(1, 0.3, (count, width)).astype(np.float16)


@pytest.mark.parametrize(("classes", "width"), [(2, 16), (2, 1280), (7, 1), (10, 1280), (3, 17), (1000, 64)])
def test_the_bits_of_a_row_do_not_depend_on_its_batch(classes: int, width: int) -> None:
    head, embeddings = make_head(classes, width), make_embeddings(300, width)
    together = head.scores(embeddings)
    for size in (1, 2, 7, 64):
        batches = [head.scores(embeddings[at : at + size]) for at in range(0, 300, size)]
        assert np.concatenate(batches).tobytes() == together.tobytes()
    assert head.scores(embeddings[::-1])[::-1].tobytes() == together.tobytes()


def test_scores_are_the_softmax_of_the_logits_over_the_temperature() -> None:
    head, embeddings = make_head(), make_embeddings(50)
    logits = (
        embeddings.astype(np.float64) @ head.weights.T.astype(np.float64) + head.bias
    ) / head.temperature
    expected = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    scores = head.scores(embeddings)
    assert scores.dtype == np.float32
    assert np.abs(scores - expected).max() < 1e-6
    assert np.abs(scores.sum(axis=1) - 1).max() < 1e-6


def test_huge_logits_give_scores_all_the_same() -> None:
    head = make_head(temperature=1e-6)
    scores = head.scores(make_embeddings(20))
    assert np.isfinite(scores).all()
    assert np.allclose(scores.sum(axis=1), 1)


def test_no_images_have_no_scores() -> None:
    assert make_head().scores(make_embeddings(0)).shape == (0, 3)


def test_a_head_comes_back_as_it_was_and_its_file_has_the_same_bytes(tmp_path: Path) -> None:
    head = make_head()
    head.save(tmp_path / "a.npz")
    head.save(tmp_path / "b.npz")
    assert (tmp_path / "a.npz").read_bytes() == (tmp_path / "b.npz").read_bytes()
    back = Head.load(tmp_path / "a.npz")
    assert (back.labels, back.temperature, back.backbone_digest) == (
        head.labels,
        head.temperature,
        head.backbone_digest,
    )
    assert back.scores(make_embeddings(9)).tobytes() == head.scores(make_embeddings(9)).tobytes()


def test_files_that_are_no_heads_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "head.npz"
    with pytest.raises(ArtefactInvalid):
        Head.load(path)
    make_head().save(path)
    whole = path.read_bytes()
    for damaged in (b"", b"text", whole[:-40], whole[:100]):
        path.write_bytes(damaged)
        with pytest.raises(ArtefactInvalid):
            Head.load(path)
    np.savez(path, weights=np.array([object()], dtype=object))
    with pytest.raises(ArtefactInvalid):
        Head.load(path)


def test_heads_that_make_no_sense_are_refused() -> None:
    head = make_head()
    for changes in (
        {"weights": head.weights[:2]},
        {"bias": head.bias[:2]},
        {"weights": head.weights.astype(np.float64)},
        {"weights": np.full_like(head.weights, np.nan)},
        {"temperature": 0.0},
        {"temperature": float("nan")},
        {"labels": ("one",)},
    ):
        with pytest.raises(ArtefactInvalid):
            Head(**(vars(head) | changes))


def test_what_serves_and_what_drives_trainers_loads_no_tensorflow() -> None:
    modules = "backtalk.heads, backtalk.runtime, backtalk.golden, backtalk.trainers, backtalk.learn.head"
    code = f"import sys, {modules}; sys.exit(bool({{'tensorflow', 'keras', 'torch'}} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0

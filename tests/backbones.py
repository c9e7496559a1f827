"""The tiny backbone, made once per session by the same road as a real one: trainer, LiteRT, store."""

from pathlib import Path

import pytest

from backtalk.trainers import Trainer


@pytest.fixture(scope="session")
def tiny_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """`_backbones/<digest>/` of the tiny backbone, in a store of its own; copy it, do not change it."""
    store = tmp_path_factory.mktemp("tiny")
    trainer = Trainer.start()
    try:
        made = trainer.call({"do": "prepare_backbone", "name": "tiny", "store": str(store)})
    finally:
        trainer.close()
    return store / "_backbones" / str(made["digest"])

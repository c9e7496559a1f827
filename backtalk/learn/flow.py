"""TensorFlow without Keras: what heads need of it, in half the time and with 90 MB less.

TensorFlow imports Keras at the end of its own import, if it is there, for code that reaches for it as
`tf.keras`. Fitting, exporting and verifying heads never do. `backtalk.learn.networks` imports Keras itself.
"""

import importlib
import sys
from typing import Any


def _import_tensorflow() -> Any:
    if "tensorflow" in sys.modules or "keras" in sys.modules:
        return importlib.import_module("tensorflow")
    sys.modules["keras"] = None  # type: ignore[assignment]  # makes its import fail, which TensorFlow forgives
    try:
        return importlib.import_module("tensorflow")
    finally:
        del sys.modules["keras"]


tf = _import_tensorflow()

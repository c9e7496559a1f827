"""Backtalk turns "that's wrong" into a better image classifier, safely, in seconds."""

__version__ = "0.1.0"

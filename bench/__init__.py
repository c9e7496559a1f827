"""Benchmarks: each figure with its baseline in the same run. `python -m bench.run` runs them all."""

"""Trials of `python benchmarks/fuzz.py`: one module a kind, each trial decided by its seed."""

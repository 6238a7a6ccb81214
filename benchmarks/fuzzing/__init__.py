"""Trials of the program under kills, full disks, damage and lies: one module a kind, run by benchmarks/fuzz.py."""

from pathlib import Path

FAKES = Path(__file__).parents[2] / "tests" / "cli" / "fake_plugins"

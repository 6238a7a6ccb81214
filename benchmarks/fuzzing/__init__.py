"""Trials of the program under kills, full disks, damage and lies: one module a kind, run by benchmarks/fuzz.py."""

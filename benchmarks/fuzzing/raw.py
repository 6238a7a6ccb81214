"""Bytes of an index's files that are changed, cut or exchanged, while the seals stay as they were."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from fuzzing.shelf import KINDS, Shelf, verbs

if TYPE_CHECKING:
    from pathlib import Path


def harmed(data: bytes, rng: np.random.Generator, other: bytes) -> tuple[str, bytes]:
    """Bytes that are not what they were, and what was done to them."""
    n, at = len(data), int(rng.integers(max(len(data), 1)))
    length = int(min(n - at, rng.integers(1, 600)))
    how = ["flip", "flip", "cut", "zeros", "splice", "random", "grow", "other"][int(rng.integers(8))]
    if how == "flip" and n:
        changed = bytes([data[at] ^ 1 << int(rng.integers(8))])
        return how, data[:at] + changed + data[at + 1 :]
    if how == "cut":
        return how, data[:at]
    if how == "zeros":
        return how, data[:at] + bytes(length) + data[at + length :]
    if how == "splice":
        start = int(rng.integers(max(n - length, 1)))
        return how, data[:at] + data[start : start + length] + data[at + length :]
    if how == "random":
        return how, data[:at] + rng.bytes(length) + data[at + length :]
    if how == "grow":
        return how, data + rng.bytes(length)
    return "other", other


def trial(shelf: Shelf, seed: int, work: Path) -> tuple[str, str]:
    """One file harmed: what was tried, and the fault, "" for none."""
    rng = np.random.default_rng((1, seed))
    kind = list(KINDS)[int(rng.integers(len(KINDS)))]
    made, twin = shelf.index(kind), shelf.index(kind, "others")
    index = shelf.copy(made, work / "index")
    files = sorted(f for f in index.rglob("*") if f.is_file() and f.name != "lock")
    path = files[int(rng.integers(len(files)))]
    name = path.relative_to(index)
    theirs = twin.path / name
    other = theirs if rng.integers(2) and theirs.exists() else files[int(rng.integers(len(files)))]
    before = path.read_bytes()
    how, data = harmed(before, rng, other.read_bytes())
    path.write_bytes(data)
    fault, answered = verbs(shelf, index, made.answer)
    if not fault and answered == "differs" and name.suffix != ".txt" and name.name != "roots.json":
        fault = "another answer without a word"
    return f"{kind}: {how} {name}", fault

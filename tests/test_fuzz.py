"""A few trials of each kind of `benchmarks/fuzz.py`; what runs for hours is run by hand."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

BENCHMARK = Path(__file__).parents[1] / "benchmarks" / "fuzz.py"
pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")


def test_a_few_trials(tmp_path: Path) -> None:
    kinds = ("raw", "sealed", "mapped", "kills", "disks")
    words = [",".join(kinds), "4", "20", "--work", str(tmp_path), "--json"]
    done = subprocess.run(
        [sys.executable, str(BENCHMARK), *words],
        capture_output=True,
        text=True,
        timeout=900,
        check=False,
    )
    assert done.returncode in (0, 1), done.stderr[-2000:]
    rows = json.loads(done.stdout)["trials"]
    assert not [(row["trial"], row["why"]) for row in rows if row["failed"]]
    for kind in kinds:
        assert sum(row["survived"] for row in rows if row["trial"].startswith(f"{kind}: ")) == 4

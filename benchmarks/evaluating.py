"""What benchmarks share: `instsearch eval` run as a person runs it, and what the ground truth lacks."""

from __future__ import annotations

import json
import subprocess
import sys
from functools import cache
from pathlib import Path
from typing import Any

UNLABELLED = Path(__file__).with_name("unlabelled.json")


def evaluate(*flags: object) -> dict[str, Any]:
    """What `instsearch eval --json` says; it leaves its pipeline in the index as the last."""
    command = [sys.executable, "-m", "instsearch_cli.main", "eval", *map(str, flags), "--json"]
    done = subprocess.run(command, stdout=subprocess.PIPE, check=True)
    report: dict[str, Any] = json.loads(done.stdout)
    return report


@cache
def _seen(file: Path) -> dict[str, list[str]]:
    seen: dict[str, list[str]] = json.loads(file.read_text())
    return seen


def unlabelled(query: str, file: Path | None = UNLABELLED) -> set[str]:
    """Images that show a query's object though the ground truth does not say so; none without a file.

    The file gives, for the start of the ids of an object's queries, what was seen by eye.
    """
    seen = _seen(file) if file else {}
    return {name for start, names in seen.items() if query.startswith(start) for name in names}

"""Damaged pictures, as benchmarks/fuzz_pictures.py makes and reads them."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

from fuzz_pictures import trial as damaged
from fuzzing.children import FaultError, forked

if TYPE_CHECKING:
    from fuzzing.bench import Bench


def trial(bench: Bench) -> None:
    """One damaged picture: read, or refused with a reason."""

    def task() -> int:
        print(json.dumps(damaged(bench.seed)))
        return 0

    outcome = bench.add(forked(f"picture {bench.seed}", task))
    kind, became, _ = outcome.json
    bench.row = str(kind)
    if became.startswith("bug"):
        raise FaultError(became)

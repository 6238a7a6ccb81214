"""Files that others could have written, as benchmarks/fuzz_inputs.py changes and reads them."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import fuzz_inputs
from fuzzing.children import FaultError, forked

if TYPE_CHECKING:
    from fuzzing.bench import Bench


def trial(bench: Bench) -> None:
    """One changed file: an answer, or an error of the project's."""
    kinds = sorted(fuzz_inputs.valid_files())
    bench.row = kinds[bench.seed % len(kinds)]
    changed = fuzz_inputs.mutation(0, bench.row, bench.seed)
    path = bench.folder / "file"
    path.write_bytes(changed.data)
    bench.input = path

    def task() -> int:
        print(json.dumps(fuzz_inputs.outcome(bench.seed, changed.read, path)))
        return 0

    outcome = bench.add(forked(f"{bench.row} {bench.seed}", task))
    _, what, why, *_ = json.loads(outcome.out.splitlines()[-1])
    if what not in ("answer", "error"):
        raise FaultError(f"{what}: {why}")

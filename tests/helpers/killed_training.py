"""Training that dies at a step, as a kill would have it, and what a run that goes on after it must have in common."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from instsearch_cli.networks.training import Run


@contextmanager
def dying(monkeypatch: pytest.MonkeyPatch, owner: Any, name: str, at: int) -> Iterator[None]:
    """What is done within dies at the ``at``-th call of a module's function, or a class's method; each step is kept."""
    plain, count = getattr(owner, name), 0

    def step(*given: Any) -> Any:
        nonlocal count
        count += 1
        if count == at:
            raise RuntimeError("killed")
        return plain(*given)

    with monkeypatch.context() as patch:
        patch.setattr(Run, "every", 0.0)
        patch.setattr(owner, name, step)
        with pytest.raises(RuntimeError, match="killed"):
            yield


def check_same_run(
    folder: Path, card: Mapping[str, Any], card_again: Mapping[str, Any], keys: Sequence[str]
) -> None:
    """The cards of folder/a.pth and folder/b.pth have these in common, and the logs are equal."""
    for key in keys:
        assert card[key] == card_again[key]
    logs = [(folder / f"{x}.pth.training" / "log.csv").read_text() for x in "ab"]
    assert logs[0] == logs[1]

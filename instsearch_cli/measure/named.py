"""Pipelines by name: those that an index knows, and presets."""

from __future__ import annotations

from typing import TYPE_CHECKING

from instsearch_cli.engine.jointly import names_of
from instsearch_cli.engine.pipeline import SEPARATOR, load_preset, parts_of_preset, presets
from instsearch_cli.engine.session import Index
from instsearch_cli.errors import UsageError, nearest
from instsearch_formats.files import vacant

if TYPE_CHECKING:
    from pathlib import Path

    from instsearch_cli.engine.pipeline import Pipeline
    from instsearch_cli.engine.registry import Registry


def by_name(registry: Registry, place: Path, name: str) -> list[Pipeline]:
    """The pipelines that a name stands for, "a+b" or a preset of several for two: as the index knows them, or presets.

    Raises UsageError for a name that is neither.
    """
    there = {} if vacant(place) else Index.open(place).pipelines
    on_offer = presets(registry)
    found = []
    for each in names_of(name):
        if each in there:
            found.append(there[each])
        elif each in on_offer:
            found += [there.get(n) or load_preset(n, registry) for n in parts_of_preset(each, registry)]
        else:
            raise UsageError(
                f"the index has no pipeline '{each}', nor is a preset called so."
                f"{nearest(str(each), {*there, *on_offer})}"
            )
    return found


def last_of_several(place: Path) -> str | None:
    """What is asked of an index where no pipeline is named, if these are several."""
    last = None if vacant(place) else Index.open(place).last
    return last if last and SEPARATOR in last else None

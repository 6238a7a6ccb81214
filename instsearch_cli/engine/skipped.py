"""``skipped.txt`` in an index: every file that was skipped, with its folder and its reason, each once."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

from instsearch_cli.errors import printable
from instsearch_formats.places import LINES

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Sequence

    from instsearch_formats import Index

FILE = "skipped.txt"


def note(
    index: Index,
    skipped: Sequence[tuple[str, str]],
    found: Iterable[str | os.PathLike[str]],
    folders: Iterable[Path] = (),
) -> None:
    """Note what a run skipped, and go on noting what earlier runs did.

    What was found and taken now, what lies in folders that were walked and was not skipped again, and what is gone
    meanwhile is noted no longer.
    """
    earlier = dict(
        line.split("\t", 1) for line in (index.read_text(FILE, LINES) or "").split("\n") if "\t" in line
    )
    now = {os.path.abspath(name): printable(reason) for name, reason in skipped}  # noqa: PTH100  (links stay)
    now = {name: reason for name, reason in now.items() if not _is_itself(name, reason)}
    if earlier:
        taken = {printable(os.path.abspath(path)) for path in found}  # noqa: PTH100
        walked = {printable(folder) for folder in folders}
        earlier = {
            name: reason
            for name, reason in earlier.items()
            if name not in taken and not _was_looked_at(name, walked, now) and _may_be_there(name)
        }
    notes = earlier | now
    if notes or (index.path / FILE).exists():
        index.write_text(FILE, "".join(f"{name}\t{notes[name]}\n" for name in sorted(notes)))


def count(index: Index) -> int:
    """How many files were left out that are no photographs of the index under another name."""
    lines = (index.read_text(FILE, LINES) or "").split("\n")
    return sum("\t" in line and not line.partition("\t")[2].startswith("same f") for line in lines)


def _is_itself(name: str, reason: str) -> bool:
    """Whether a file was skipped since it was reached by its own name before."""
    return reason.startswith("same file as ") and os.path.abspath(reason[13:]) == name  # noqa: PTH100


def _was_looked_at(name: str, walked: Collection[str], skipped: Collection[str]) -> bool:
    """Whether a path lies in a folder that was walked, and in none in there that was skipped."""
    for folder in (name, *map(str, Path(name).parents)):
        if folder in skipped or folder in walked:
            return folder not in skipped
    return False


def _may_be_there(name: str) -> bool:
    return "\\" in name or os.path.lexists(Path(name))

"""What a training was asked for and what came out of it: the weights' card, and whether a run is done."""

from __future__ import annotations

import hashlib
import json
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

from instsearch_cli.errors import InstsearchError, UsageError
from instsearch_cli.outside.files import open_plain
from instsearch_cli.outside.text import read_json

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from instsearch_cli.progress import Quiet

MOST_JSON = 16 << 20  #: bytes
CHECKPOINT = "checkpoint.pt"  #: in the run's folder, until the run is finished


def card_of(out: Path) -> Path:
    """Where the card of a weights file lies."""
    return out.with_suffix(".json")


def finished(out: Path, request: Mapping[str, Any]) -> dict[str, Any] | None:
    """The card of a finished run that was asked for the same; None if there is nothing at ``out``.

    Raises UsageError if there is something else, which training would overwrite.
    """
    card, folder = card_of(out), folder_of(out)
    earlier_card = load_json(card) if card.exists() else None
    if earlier_card is not None and (difference := differs(request, earlier_card)):
        raise UsageError(
            f"{card} is of weights made with {difference}.\nChoose another --out, or delete them and {folder}."
        )
    if not out.exists() or (folder / CHECKPOINT).exists():
        return None
    if earlier_card is None:
        raise UsageError(f"{out} is there, and was not made by this command.\nChoose another --out.")
    return earlier_card


def folder_of(out: Path) -> Path:
    """Where the run that ends in ``out`` keeps its state."""
    return out.with_name(f"{out.name}.training")


def differs(request: Mapping[str, Any], found: Mapping[str, Any]) -> str:
    """What another run was asked for, at the first difference, in words; "" if nothing differs."""
    for key, wanted in request.items():
        had = found.get(key)
        if had == wanted:
            continue
        if key == "data":
            return "other data"
        if isinstance(wanted, dict) and isinstance(had, dict):
            name = next(k for k in [*wanted, *had] if wanted.get(k) != had.get(k))
            return f"{name} = {json.dumps(had.get(name))}, not {json.dumps(wanted.get(name))}"
        return f"{key} {json.dumps(had)}, not {json.dumps(wanted)}"
    return ""


def data_digest(folder: Path, progress: Quiet) -> dict[str, Any]:
    """What a folder holds: number of files, bytes, and a sha256 over their names and contents.

    Hidden files are left out; of what is no plain file, a link to nothing say, the name alone counts. Raises
    InstsearchError for a folder that is not there or a file that cannot be read.
    """
    if not folder.is_dir():
        raise InstsearchError(f"--data: there is no folder {folder}")
    whole, count, total = hashlib.sha256(), 0, 0
    progress.start("reading the data", unit="files")
    for path in _files(folder):
        held = None
        if os.path.isfile(path):  # noqa: PTH113  (Path.is_file raises)
            try:
                with open_plain(path) as file:
                    held = hashlib.file_digest(file, "sha256").hexdigest()
                    total += file.tell()
            except OSError as error:
                raise InstsearchError(f"cannot read {path}: {error.strerror}") from error
            count += 1
        whole.update(json.dumps([path.relative_to(folder).as_posix(), held]).encode())
        progress.advance()
    progress.close()
    return {"files": count, "bytes": total, "sha256": whole.hexdigest()}


def _files(folder: Path) -> Iterator[Path]:
    """All that is in a folder and is none itself, in order; links are followed, into each real folder once."""
    seen: set[str] = set()
    for parent, folders, names in os.walk(folder, followlinks=True):
        if (real := os.path.realpath(parent)) in seen:
            folders.clear()
            continue
        seen.add(real)
        folders[:] = sorted(name for name in folders if name[0] != ".")
        yield from (Path(parent, name) for name in sorted(names) if name[0] != ".")


def load_json(path: Path) -> dict[str, Any]:
    """An object from a small file of ours. Raises InstsearchError if it cannot be read."""
    try:
        loaded = read_json(path, MOST_JSON)
    except InstsearchError as error:
        raise InstsearchError(f"{error}\nDelete it.") from error
    return loaded if isinstance(loaded, dict) else {}

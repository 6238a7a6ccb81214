"""What a query found, in words and as JSON: what the table, the page and the sheet share."""

from __future__ import annotations

import csv
import io
import shutil
from typing import TYPE_CHECKING, Any

from instsearch_cli.errors import InstsearchError
from instsearch_cli.images import printable

if TYPE_CHECKING:
    from pathlib import Path

    from instsearch_cli.engine.answer import XYWH, Answer, Hit, View


def box_text(box: XYWH | None) -> str:
    """A box as ``--box`` takes it, in whole pixels; a dash where there is none."""
    return "-" if box is None else ",".join(f"{v:.0f}" for v in box)


def view_lines(answer: Answer) -> list[str]:
    """Every view and what the object is not, a line each, as they were understood."""
    words = (("asked", answer.views[:1]), ("also", answer.also), ("not", answer.against))
    return [f"{word}: {printable(view.question)}" for word, views in words for view in views]


def score_texts(hits: tuple[Hit, ...]) -> list[str]:
    """The scores with as many decimals as their size asks for, the same for all."""
    largest = max((abs(hit.score) for hit in hits), default=0.0)
    decimals = 4 if largest < 10 else 2 if largest < 1000 else 0
    return [f"{hit.score:.{decimals}f}" for hit in hits]


def tail(name: str, width: int) -> str:
    """A name of at most ``width`` characters that keeps its end, fit for any output."""
    name = printable(name)
    return name if len(name) <= width else "…" + name[len(name) - max(width - 1, 0) :]


SCHEMA = 2  #: of the JSON of hits; schemas/query.json describes it


def to_json(answer: Answer) -> dict[str, Any]:
    """The answer for programs, as schemas/query.json has it; boxes are [x, y, w, h], or None."""
    return {
        "schema": SCHEMA,
        "query": {
            **_seen(answer.views[0]),
            "views": [_seen(view) for view in answer.views],
            "against": [_seen(view) for view in answer.against],
        },
        "index": [str(path) for path in answer.indexes],
        "pipeline": answer.pipeline,
        "found": answer.found,
        "threshold": answer.min_score,
        "best": answer.best,
        "line": answer.line,
        "dropped": answer.dropped,
        "probability": answer.probability,
        "seconds": round(answer.seconds, 4),
        "images": answer.n_images,
        "cautions": list(answer.cautions),
        "hits": [
            {
                "rank": hit.rank,
                "image": hit.image,
                "path": str(hit.path),
                "root": hit.root,
                "size": None if hit.size is None else list(hit.size),
                "score": hit.score,
                "box": _listed(hit.box),
                "boxes": [] if hit.box is None else [_listed(hit.box)],
                "index": hit.index,
                "view": hit.view,
                "row": hit.row,
            }
            for hit in answer.hits
        ],
    }


COLUMNS = ("rank", "score", "image", "path", "x", "y", "w", "h", "width", "height")


def to_csv(answer: Answer) -> str:
    """The hits as a table for spreadsheets, with a line of titles; what is unknown is left empty."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(COLUMNS)
    for hit in answer.hits:
        box, size = hit.box or ("",) * 4, hit.size or ("",) * 2
        writer.writerow([hit.rank, hit.score, printable(hit.image), printable(hit.path), *box, *size])
    return text.getvalue()


def copy_hits(answer: Answer, folder: Path) -> tuple[int, list[str]]:
    """Copy the photographs that were found into a new or empty folder, their ranks before their names.

    Returns how many were copied, and a line for each that could not be. Raises InstsearchError where the folder is
    not empty, or cannot be written to.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        if any(folder.iterdir()):
            raise InstsearchError(f"{folder} is not empty: choose a new or an empty folder for the copies")
    except OSError as error:
        raise InstsearchError(f"cannot write to {folder}: {error.strerror or error}") from error
    missing = []
    first = {hit.path: hit for hit in reversed(answer.hits)}
    hits = sorted(first.values(), key=lambda hit: hit.rank)
    digits = max((len(str(hit.rank)) for hit in hits), default=1)
    for hit in hits:
        try:
            shutil.copy2(hit.path, folder / f"{hit.rank:0{digits}}-{hit.path.name}")
        except OSError as error:
            missing.append(f"{printable(hit.path)}: {error.strerror or error}")
    return len(hits) - len(missing), missing


def write_text(path: Path, text: str) -> None:
    """Write a file. Raises InstsearchError if it cannot be written."""
    try:
        path.write_text(text, "utf-8")
    except OSError as error:
        raise InstsearchError(f"cannot write {path}: {error.strerror or error}") from error


def _seen(view: View) -> dict[str, Any]:
    size = None if view.size is None else list(view.size)
    return {"image": view.name, "size": size, "box": _listed(view.box)}


def _listed(box: XYWH | None) -> list[float] | None:
    return None if box is None else list(box)

"""What a query found, in words and as JSON: what the table, the page and the sheet share."""

from __future__ import annotations

import csv
import errno
import io
import os
import shutil
from typing import TYPE_CHECKING, Any

from instsearch_cli.engine.choosing import as_path
from instsearch_cli.errors import InstsearchError, UsageError, printable
from instsearch_cli.images import BadImage, read_image

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from instsearch_cli.data import Box
    from instsearch_cli.engine.answer import XYWH, Answer, Hit, View
    from instsearch_cli.engine.choosing import Anywhere


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
    writer.writerows(hit_row(hit) for hit in to_json(answer)["hits"])
    return text.getvalue()


def hit_row(hit: dict[str, Any]) -> list[Any]:
    """What COLUMNS are of a hit as JSON has it."""
    box, size = hit["box"] or ("",) * 4, hit["size"] or ("",) * 2
    return [hit["rank"], hit["score"], printable(hit["image"]), printable(hit["path"]), *box, *size]


FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS)  #: errors of the place that is written to
COPIES = (
    "copy",
    "link",
    "drawn",
)  #: how photographs are copied: as they are, as links to them, with their boxes drawn


def copy_hits(answer: Answer, folder: Anywhere, kind: str = "copy") -> tuple[int, list[str]]:
    """Copy the photographs that were found into a new or empty folder, their ranks before their names.

    kind: "copy"; "link", symbolic links to them; or "drawn", JPEG files, upright, with the hits' boxes drawn. Returns
    how many were copied, and a line for each that could not be. Raises InstsearchError where the folder is not empty,
    or cannot be written to.
    """
    if kind not in COPIES:
        raise UsageError(f"photographs are copied as {', '.join(COPIES)}, not {kind!r}")
    folder = as_path(folder, "a place for copies")
    check_empty(folder)
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InstsearchError(f"cannot write to {folder}: {error.strerror or error}") from error
    missing = []
    hits = first_of_each(answer)
    for hit, name in ranked_names(hits):
        copy = folder / name
        if kind == "drawn":
            copy = copy.with_name(f"{copy.stem}.jpg")
        try:
            if kind == "link":
                if not hit.path.exists():
                    raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT))
                copy.symlink_to(os.path.abspath(hit.path))  # noqa: PTH100
            elif kind == "drawn":
                _draw(hit.path, [each.corners for each in answer.hits if each.path == hit.path], copy)
            else:
                shutil.copy2(hit.path, copy)
        except (OSError, BadImage) as error:
            if getattr(error, "errno", 0) in FULL:
                copy.unlink(missing_ok=True)
                raise InstsearchError(f"cannot write to {folder}: {error.strerror}") from error  # type: ignore[union-attr]
            reason = error.reason if isinstance(error, BadImage) else error.strerror or error
            missing.append(f"{printable(hit.path)}: {reason}")
    return len(hits) - len(missing), missing


def check_empty(folder: Path) -> None:
    """Raises InstsearchError for a folder with something in it, and for what is none."""
    try:
        if folder.exists() and any(folder.iterdir()):
            raise InstsearchError(f"{folder} is not empty: choose a new or an empty folder for the copies")
    except OSError as error:
        raise InstsearchError(f"cannot write to {folder}: {error.strerror or error}") from error


def first_of_each(answer: Answer) -> list[Hit]:
    """The first hit of each photograph that was found."""
    first = {hit.path: hit for hit in reversed(answer.hits)}
    return sorted(first.values(), key=lambda hit: hit.rank)


def ranked_names(hits: list[Hit], safe: Callable[[str], str] = str) -> Iterator[tuple[Hit, str]]:
    """Hits with their files' names, and their ranks before these."""
    digits = max((len(str(hit.rank)) for hit in hits), default=1)
    for hit in hits:
        yield hit, f"{hit.rank:0{digits}}-{safe(hit.path.name)}"


def _draw(path: Path, boxes: list[Box | None], copy: Path) -> None:
    from PIL import Image

    from instsearch_cli.report.pictures import mark

    picture = Image.fromarray(read_image(path).pixels)
    for box in boxes:
        if box is not None:
            mark(picture, box, picture.size, max(3, max(picture.size) // 250))
    picture.save(copy, quality=92)


def _seen(view: View) -> dict[str, Any]:
    size = None if view.size is None else list(view.size)
    return {"image": view.name, "size": size, "box": _listed(view.box)}


def _listed(box: XYWH | None) -> list[float] | None:
    return None if box is None else list(box)

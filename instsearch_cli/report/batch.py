"""Answers to many questions: JSON lines that can be gone on with, a table, TREC runs, a page with a row a question."""

from __future__ import annotations

import contextlib
import csv
import json
import math
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, Protocol

from instsearch_cli.boxes import clip_box, xywh
from instsearch_cli.engine.answer import counted
from instsearch_cli.engine.questions import boxes
from instsearch_cli.errors import IndexInUse, InstsearchError, printable
from instsearch_cli.outside.files import whole
from instsearch_cli.outside.text import parse_json, shown
from instsearch_cli.report.markup import BRAND, STYLE, aspect, escaped, framed, href, opening
from instsearch_cli.report.pictures import thumbnail
from instsearch_cli.report.results import COLUMNS, box_text, hit_row, to_json
from instsearch_cli.report.takeaway import trec_lines
from instsearch_formats.lock import try_lock

if TYPE_CHECKING:
    from collections.abc import Iterator

    from instsearch_cli.data import Box
    from instsearch_cli.engine.answer import XYWH, Answer
    from instsearch_cli.engine.batch_file import Entry

Line = dict[str, Any]
"""An answer as :func:`to_json` has it, with the ``id`` of its question; or ``id`` and ``error``."""
FIRST = 6  #: hits of a question that the page shows
SIDE, LEAST = 240, 120  #: longer side of its pictures, and the least where there are many
FULL = 600  #: so many pictures have the full size
LONGEST = 64 << 20  #: bytes of a line


def line_of(id: str, answer: Answer | InstsearchError, now: Line) -> Line:
    """What is said of one question; ``now``: what a later run has to ask for alike, as :func:`check_alike` has it."""
    if isinstance(answer, InstsearchError):
        return {"id": id, "error": str(answer)}
    return {"id": id, **to_json(answer), "index": now["index"], "wishes": now["wishes"]}


class Sink(Protocol):
    """What takes the answers one by one."""

    def add(self, line: Line) -> None: ...


class JsonLines:
    """A JSON object a line; each is there whole once it is written."""

    def __init__(self, file: IO[str]) -> None:
        self.file = file

    def add(self, line: Line) -> None:
        self.file.write(json.dumps(line) + "\n")
        self.file.flush()


class Table:
    """A table for spreadsheets: a row a hit, the question's id before it."""

    def __init__(self, file: IO[str]) -> None:
        self.writer = csv.writer(file, lineterminator="\n")
        self.writer.writerow(("id", *COLUMNS))

    def add(self, line: Line) -> None:
        for hit in line.get("hits", ()):
            self.writer.writerow([printable(line["id"]), *hit_row(hit)])


class Run:
    """TREC runs: a line a hit."""

    def __init__(self, file: IO[str]) -> None:
        self.file = file

    def add(self, line: Line) -> None:
        self.file.writelines(trec_lines(line, line["id"]) if "hits" in line else ())


class Page:
    """One self-contained page: a row a question, its picture with the box, then the first hits."""

    def __init__(self, file: IO[str], folder: Path | None, questions: int) -> None:
        self.file, self.folder = file, folder
        self.side = max(LEAST, min(SIDE, int(SIDE * math.sqrt(FULL / max(questions * (FIRST + 1), 1)))))
        title = counted(questions, "question")
        file.write(opening(f"{title} - instsearch", STYLE + ROWS))
        file.write(f'<div class="batch"><p class="brand">{BRAND}instsearch</p><h1>{title}</h1>\n')

    def add(self, line: Line) -> None:
        said = escaped(line["error"]) if "error" in line else _summary(line)
        body = "" if "error" in line else "".join(self._pictures(line))
        self.file.write(
            f'<section><h2>{escaped(line["id"])}</h2><p class="where">{said}</p><ol class="row">{body}</ol></section>\n'
        )

    def close(self) -> None:
        """The end of the page."""
        self.file.write("</div></body></html>\n")

    def _pictures(self, line: Line) -> Iterator[str]:
        asked_with = line["query"]
        yield self._picture(
            Path(asked_with["image"]), asked_with["box"], asked_with["image"], "asked", "asked"
        )
        for hit in line["hits"][:FIRST]:
            below = line["line"] is not None and hit["score"] < line["line"]
            score = format(hit["score"], ".2f" if line["probability"] else ".4g")
            yield self._picture(
                Path(hit["path"]),
                hit["box"],
                hit["image"],
                f"{hit['rank']} · {score}",
                "below" if below else "found",
            )

    def _picture(self, path: Path, box: list[float] | None, name: str, label: str, kind: str) -> str:
        corners: Box | None = None if box is None else (box[0], box[1], box[0] + box[2], box[1] + box[3])
        thumb = thumbnail(path, self.side)
        where = "whole picture" if box is None else f"box at {box_text((box[0], box[1], box[2], box[3]))}"
        alt = f"{escaped(name)}, {where}" if thumb.size else f"{escaped(name)}: cannot be read"
        return (
            f'<li class="{kind}" style="--r:{aspect(thumb):.4f}"><a{href(path, self.folder)} title="{escaped(name)}">'
            f'{framed(thumb, corners, alt)}<span class="where">{label}</span></a></li>'
        )


def _summary(line: Line) -> str:
    n = len(line["hits"])
    if line["line"] is not None:
        n = sum(hit["score"] >= line["line"] for hit in line["hits"])
        return f"{n:,} found" if n else "not found"
    return counted(n, "hit")


ROWS = """
.batch { max-width: 1720px; margin: 0 auto; padding: 28px 32px 56px; }
.batch h1 { margin: 0 0 26px; }
.batch section { margin: 0 0 26px; padding-top: 12px; border-top: 1px solid var(--line); }
.batch h2 { display: inline; margin: 0 12px 0 0; font-size: 15px; overflow-wrap: anywhere; }
.batch section > .where { display: inline; }
.row { display: flex; flex-wrap: wrap; gap: 12px; margin: 10px 0 0; padding: 0; list-style: none; }
.row li { flex: var(--r) 1 calc(var(--r) * 110px); max-width: calc(var(--r) * 160px); }
.row a { display: block; }
.row .asked { margin-right: 18px; }
.row .asked .around { opacity: .75; }
.row .where { white-space: nowrap; }
.row .below .view { opacity: .5; }
"""


@contextlib.contextmanager
def written(path: Path) -> Iterator[IO[str]]:
    """A file written as :func:`whole` does, line by line. Raises InstsearchError where it cannot be."""
    try:
        with whole(path) as place, place.open("w", encoding="utf-8", newline="") as file:
            yield file
    except OSError as error:
        raise InstsearchError(f"cannot write {path}: {error.strerror or error}") from error


@contextlib.contextmanager
def appended(path: Path) -> Iterator[IO[str]]:
    """A file to write more lines to, alone. Raises InstsearchError where it cannot be written, IndexInUse by now."""
    try:
        with path.open("a", encoding="utf-8", newline="\n") as file:
            if not try_lock(file.fileno()):
                raise IndexInUse(
                    f"another run writes to {path}: wait until it has ended, or name another file"
                )
            yield file
    except OSError as error:
        raise InstsearchError(f"cannot write {path}: {error.strerror or error}") from error


def read_back(path: Path) -> Iterator[Line]:
    """The lines of an earlier run; a torn last one is cut off the file. Raises InstsearchError for other files.

    A FIFO or a device has none: it is only written to.
    """
    if path.exists() and not path.is_file():
        return
    try:
        file = path.open("r+b")
    except FileNotFoundError:
        return
    except OSError as error:
        raise InstsearchError(f"cannot go on with {path}: {error.strerror or error}") from error
    with file:
        number, end = 0, 0
        while raw := file.readline(LONGEST):
            number += 1
            line = _line(raw)
            if line is None:
                if file.read(1) or len(raw) == LONGEST or (number == 1 and raw.endswith(b"\n")):
                    raise InstsearchError(
                        f"{path}, line {number}, is no answer of a batch: name another file, or the one to go on with"
                    )
                file.truncate(end)
                return
            yield line
            end += len(raw)


def _line(raw: bytes) -> Line | None:
    """What a line says; None for what is none, or not whole."""
    if not raw.endswith(b"\n"):
        return None
    try:
        line = parse_json(raw.decode("utf-8"), "line")
    except (UnicodeDecodeError, InstsearchError):
        return None
    whole = isinstance(line, dict) and isinstance(line.get("id"), str) and ("hits" in line or "error" in line)
    return line if whole else None


def check_alike(line: Line, now: Line, path: Path) -> None:
    """Raises InstsearchError where a line of an earlier run is of other indexes, another pipeline or other options."""
    for key in ("index", "pipeline"):
        if key in line and line[key] != now[key]:
            raise InstsearchError(
                f"{path} has answers of {key} {shown(line[key])}, and now {shown(now[key])} is asked: name another file"
            )
    then: dict[str, Any] = line.get("wishes") or now["wishes"]
    for key in sorted({*then, *now["wishes"]}):
        if then.get(key) != now["wishes"].get(key):
            old, new = shown(then.get(key)), shown(now["wishes"].get(key))
            raise InstsearchError(
                f"{path} has answers with {key.replace('_', '-')} {old}, and now it is {new}: name another file"
            )


def check_asked(line: Line, entry: Entry | None, folder: Path, path: Path) -> None:
    """Raises InstsearchError where a line of an earlier run answers another question than its id is of now.

    An error does not say what was asked. folder: what names in the file of questions are relative to, which may have
    been called otherwise then.
    """
    if entry is None or ("query" in line and (entry.wrong or not _answers(line, entry.question, folder))):
        raise InstsearchError(
            f"{path} has an answer to another question {shown(line['id'])}: name another file"
        )


def _answers(line: Line, question: dict[str, Any], folder: Path) -> bool:
    """Whether what a line says was asked is a question of a file."""
    left_out = [caution for caution in line.get("cautions", ()) if ": left out, " in caution]
    first = (question["picture"], question.get("box"))
    for key, given in (
        ("views", [first, *question.get("also", ())]),
        ("against", question.get("against", ())),
    ):
        seen = line["query"][key]
        parts = [
            (picture, box)
            for picture, several in given
            for box in boxes(several)
            if not any(picture.name in caution for caution in left_out)
            or any(_same((picture, box), view, folder) for view in seen)
        ]
        if len(parts) != len(seen) or not all(_same(*pair, folder) for pair in zip(parts, seen, strict=True)):
            return False
    return True


def _same(part: tuple[Path, XYWH | None], seen: dict[str, Any], folder: Path) -> bool:
    """Whether a picture and a box are those of a view, as it is kept: the box cut to the picture, and rounded."""
    (picture, box), cut = part, None
    name = (picture.relative_to(folder) if picture.is_relative_to(folder) else picture).parts
    if box is not None:
        try:
            cut = list(xywh(clip_box(box, seen["size"])))
        except InstsearchError:
            return False
    return Path(seen["image"]).parts[-len(name) :] == name and cut == seen["box"]

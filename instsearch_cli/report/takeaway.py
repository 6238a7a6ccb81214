"""Hits in the forms of other programs: W3C web annotations, TREC runs, a zip archive of the photographs."""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import uuid
import zipfile
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

from instsearch_cli.errors import InstsearchError, printable
from instsearch_cli.measure.runs import encoded, falling_scores
from instsearch_cli.outside.files import open_plain, whole
from instsearch_cli.report.results import first_of_each, ranked_names, to_csv, to_json

if TYPE_CHECKING:
    from collections.abc import Iterator

    from instsearch_cli.engine.answer import Answer, Hit

CONTEXT = "http://www.w3.org/ns/anno.jsonld"
FRAGMENTS = "http://www.w3.org/TR/media-frags/"
UNSAFE = re.compile(
    r'[\x00-\x1f\x7f/\\:*?"<>|]'
)  # what some file system, or some unpacker, makes something else of
LONGEST = 150  # characters of a name


def to_annotations(answer: Answer) -> dict[str, Any]:
    """The hits as a page of annotations (Web Annotation Data Model, W3C 2017), one each, of its box in its file."""
    return {
        "@context": CONTEXT,
        "id": _urn(answer.query, str(answer.box), *map(str, answer.indexes)),
        "type": "AnnotationPage",
        "startIndex": 0,
        "items": [_annotation(answer, hit) for hit in answer.hits],
    }


def _annotation(answer: Answer, hit: Hit) -> dict[str, Any]:
    target: dict[str, Any] = {"type": "Image", "source": _uri(hit.path)}
    if hit.box is not None:
        pixels = ",".join(str(max(round(v), 0)) for v in hit.box)
        selector = {"type": "FragmentSelector", "conformsTo": FRAGMENTS, "value": f"xywh=pixel:{pixels}"}
        target = {"source": target["source"], "selector": selector}
    return {
        "id": _urn(answer.query, str(answer.box), str(hit.path), str(hit.box)),
        "type": "Annotation",
        "motivation": "identifying",
        "body": [
            {"type": "TextualBody", "purpose": "identifying", "value": printable(answer.question)},
            {"type": "TextualBody", "purpose": "assessing", "value": f"{hit.score:.6g}"},
        ],
        "target": target,
    }


def _urn(*parts: str) -> str:
    text = "\n".join(part.encode("utf-8", "backslashreplace").decode() for part in parts)
    return uuid.uuid5(uuid.NAMESPACE_URL, text).urn


def _uri(path: Path) -> str:
    return Path(os.path.abspath(path)).as_uri()  # noqa: PTH100  (links stay as they are)


def to_trec(answer: Answer, tag: str = "instsearch") -> str:
    """The hits as a TREC run, a line each: query, Q0, image, rank, score, tag; an image's first place counts."""
    return "".join(trec_lines(to_json(answer), answer.query, tag))


def trec_lines(line: dict[str, Any], query: str, tag: str = "instsearch") -> Iterator[str]:
    """The same of an answer as JSON has it."""
    first = {hit["path"]: hit for hit in reversed(line["hits"])}
    hits = sorted(first.values(), key=lambda hit: hit["rank"])
    for rank, (hit, score) in enumerate(
        zip(hits, falling_scores([h["score"] for h in hits]), strict=True), 1
    ):
        fields = (encoded(query), "Q0", encoded(hit["image"]), str(rank), f"{score:.9g}", encoded(tag))
        yield " ".join(fields) + "\n"


def to_zip(answer: Answer, file: Path | IO[bytes]) -> tuple[int, list[str]]:
    """Write a zip archive of the photographs that were found, their ranks before their names, with hits.csv.

    Files are copied as they are read, so that ``file`` may be a stream. Returns how many are in it, and a line for
    each that could not be read, which missing.txt has, too. Raises InstsearchError where it cannot be written.
    """
    missing, n = [], 0
    try:
        target = whole(file) if isinstance(file, Path) else contextlib.nullcontext(file)
        with target as place, zipfile.ZipFile(place, "w") as archive:
            archive.writestr("hits.csv", to_csv(answer))
            for hit, name in ranked_names(first_of_each(answer), safe_name):
                try:
                    source = open_plain(hit.path)
                except InstsearchError as error:
                    missing.append(printable(str(error).removeprefix("cannot read ")))
                    continue
                with source, archive.open(zipfile.ZipInfo(name), "w", force_zip64=True) as copy:
                    shutil.copyfileobj(source, copy, 1 << 20)
                n += 1
            if missing:
                archive.writestr("missing.txt", "\n".join(missing) + "\n")
    except OSError as error:
        raise InstsearchError(f"cannot write the archive: {error.strerror or error}") from error
    return n, missing


def safe_name(name: str) -> str:
    """A file's name that every system and archive can have."""
    safe = UNSAFE.sub("_", printable(name)).rstrip(". ")
    stem, dot, suffix = safe.rpartition(".")
    return safe if len(safe) <= LONGEST else f"{stem[: LONGEST - len(suffix) - 1]}{dot}{suffix}"[:LONGEST]

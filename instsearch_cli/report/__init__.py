"""Results for people and for programs: a table, a page, a contact sheet, JSON."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pathlib import Path

    from instsearch_cli.data import Box


@dataclass(frozen=True)
class Hit:
    """One image of the ranking; the box (x0, y0, x1, y1) is in pixels of the upright original."""

    rank: int
    image: str
    path: Path
    score: float
    box: Box | None


@dataclass(frozen=True)
class Result:
    """The answer to one query."""

    query: str
    query_path: Path
    query_box: Box | None
    hits: tuple[Hit, ...]
    settings: dict[str, str]
    seconds: float
    n_images: int


def to_json(result: Result) -> dict[str, Any]:
    """The result as `query --json` prints it, boxes as x, y, w, h."""
    return {
        "query": {"image": result.query, "box": _xywh(result.query_box)},
        "hits": [
            {"rank": h.rank, "image": h.image, "score": h.score, "box": _xywh(h.box)} for h in result.hits
        ],
    }


def _xywh(box: Box | None) -> list[float] | None:
    if box is None:
        return None
    x0, y0, x1, y1 = box
    return [round(v, 2) for v in (x0, y0, x1 - x0, y1 - y0)]

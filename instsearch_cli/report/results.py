"""What a query found: the type that the table, the page, the sheet and the JSON are made from."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from instsearch_cli.images import printable

if TYPE_CHECKING:
    from pathlib import Path

    Box = tuple[float, float, float, float]


@dataclass(frozen=True)
class Hit:
    """One image found, or one of its regions.

    rank   from 1
    image  its name in the collection
    path   where it lies
    box    (x0, y0, x1, y1) in pixels of the upright original; None: unknown
    """

    rank: int
    image: str
    path: Path
    score: float
    box: Box | None


@dataclass(frozen=True)
class Result:
    """A query and its hits, best first.

    query      what the user called the picture
    query_box  (x0, y0, x1, y1); None: the whole picture
    settings   what to say about how the hits were found, in order
    seconds    from the decoded query to the hits
    n_images   how many images were searched
    min_score  hits with a lower score were left out; None: none was
    best       the score of the best hit before that; None: there was no hit
    """

    query: str
    query_path: Path
    query_box: Box | None
    hits: tuple[Hit, ...]
    settings: dict[str, str]
    seconds: float
    n_images: int
    min_score: float | None = None
    best: float | None = None

    @property
    def found(self) -> str:
        """``20 hits``, or ``20 hits in 7 images`` where an image has several; ``no hits``, ``not found``."""
        if not self.hits:
            return "no hits" if self.min_score is None else "not found"
        images = len({hit.image for hit in self.hits})
        where = f" in {counted(images, 'image')}" if images < len(self.hits) else ""
        return counted(len(self.hits), "hit") + where

    @property
    def summary(self) -> str:
        """``20 hits among 5,000 images in 0.42 s``; with a min-score what it is, and the best where it left none."""
        among = f"among {counted(self.n_images, 'image')} in {self.seconds:.2f} s"
        if self.min_score is None:
            return f"{self.found} {among}"
        if self.hits:
            return f"{self.found} of at least {self.min_score:g} {among}"
        best = "no hits" if self.best is None else f"best: {self.best:.4g}"
        return f"not found: nothing scores at least {self.min_score:g} ({best}) {among}"


def counted(n: int, what: str) -> str:
    """``1 image``, ``5,000 images``."""
    return f"{n:,} {what}{'s' * (n != 1)}"


def xywh(box: Box) -> tuple[float, float, float, float]:
    """A box (x0, y0, x1, y1) as people give it: x, y, width, height, to a tenth of a pixel."""
    x0, y0, x1, y1 = box
    return round(x0, 1), round(y0, 1), round(x1 - x0, 1), round(y1 - y0, 1)


def box_text(box: Box | None) -> str:
    """A box as ``--box`` takes it, in whole pixels; a dash where there is none."""
    return "-" if box is None else ",".join(f"{v:.0f}" for v in xywh(box))


def score_texts(hits: tuple[Hit, ...]) -> list[str]:
    """The scores with as many decimals as their size asks for, the same for all."""
    largest = max((abs(hit.score) for hit in hits), default=0.0)
    decimals = 4 if largest < 10 else 2 if largest < 1000 else 0
    return [f"{hit.score:.{decimals}f}" for hit in hits]


def tail(name: str, width: int) -> str:
    """A name of at most ``width`` characters that keeps its end, fit for any output."""
    name = printable(name)
    return name if len(name) <= width else "…" + name[len(name) - max(width - 1, 0) :]


def to_json(result: Result) -> dict[str, Any]:
    """``{"query": {"image", "box"}, "hits": [{"rank", "image", "score", "box"}]}``, boxes as [x, y, w, h] or None.

    Where hits had to have a score, ``"found"``, whether any has it, ``"min_score"`` and ``"best"``, too.
    """

    def box(corners: Box | None) -> list[float] | None:
        return None if corners is None else list(xywh(corners))

    verdict: dict[str, Any] = {}
    if result.min_score is not None:
        verdict = {"found": bool(result.hits), "min_score": result.min_score, "best": result.best}
    return {
        "query": {"image": result.query, "box": box(result.query_box)},
        **verdict,
        "hits": [
            {"rank": hit.rank, "image": hit.image, "score": hit.score, "box": box(hit.box)}
            for hit in result.hits
        ],
    }

"""What a query found."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, overload

from instsearch_cli.boxes import box_question, xywh

if TYPE_CHECKING:
    from pathlib import Path

    import PIL.Image

    from instsearch_cli.data import Box

XYWH = tuple[float, float, float, float]


@dataclass(frozen=True)
class Hit:
    """One image found, or one of its regions.

    rank     from 1
    image    its name in the collection
    path     where it lies
    corners  (x0, y0, x1, y1) in pixels of the upright original; None: unknown
    size     (width, height) of the upright original in pixels; None: unknown
    root     the folder that the collection's names are relative to
    """

    rank: int
    image: str
    path: Path
    score: float
    corners: Box | None
    size: tuple[int, int] | None = None
    root: str = ""

    @property
    def box(self) -> XYWH | None:
        """Where the object is: x, y, width and height in pixels of the upright original; None: unknown."""
        return None if self.corners is None else xywh(self.corners)


@dataclass(frozen=True, repr=False)
class Answer(Sequence[Hit]):
    """A query and its hits, best first.

    query      what the user called the picture
    picture    its file; or itself, where it was in memory
    corners    of the query's box, (x0, y0, x1, y1); None: the whole picture
    settings   what to say about how the hits were found, in order
    seconds    from the decoded query to the hits
    n_images   how many images were searched
    min_score  hits with a lower score were left out; None: none was
    best       the score of the best hit before that; None: there was no hit
    cautions   what one should know about this query
    size       (width, height) of the query's picture, upright; None: unknown
    pipeline   the name of the pipeline that was asked
    indexes    the indexes that were asked
    probability  scores are probabilities that a hit shows the object
    """

    query: str
    picture: Path | PIL.Image.Image
    corners: Box | None
    hits: tuple[Hit, ...]
    settings: dict[str, str]
    seconds: float
    n_images: int
    min_score: float | None = None
    best: float | None = None
    cautions: tuple[str, ...] = ()
    size: tuple[int, int] | None = None
    pipeline: str = ""
    indexes: tuple[Path, ...] = ()
    probability: bool = False

    @overload
    def __getitem__(self, index: int) -> Hit: ...
    @overload
    def __getitem__(self, index: slice) -> tuple[Hit, ...]: ...
    def __getitem__(self, index: int | slice) -> Hit | tuple[Hit, ...]:
        return self.hits[index]

    def __len__(self) -> int:
        return len(self.hits)

    def __repr__(self) -> str:
        return f"<{self.query}: {self.summary}>"

    @property
    def box(self) -> XYWH | None:
        """The query's box: x, y, width and height; None: the whole picture."""
        return None if self.corners is None else xywh(self.corners)

    @property
    def question(self) -> str:
        """What was asked for, in words: the box as it was understood, of which picture."""
        asked_for = "the whole picture" if self.size is None else box_question(self.box, self.size)
        return f"{self.query}: {asked_for}"

    @property
    def found(self) -> bool:
        """Whether there is any hit."""
        return bool(self.hits)

    @property
    def counts(self) -> str:
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
            return f"{self.counts} {among}"
        if self.hits:
            return f"{self.counts} of at least {self.min_score:g} {among}"
        return f"not found: {self.nothing} {among}"

    @property
    def nothing(self) -> str:
        """``nothing reached 0.5; the best is 0.0001``: what there is to say where there is no hit."""
        if self.min_score is None or self.best is None:
            return "no image has anything in common with it"
        return f"nothing reached {self.min_score:g}; the best is {self.best:.4g}"


def counted(n: int, what: str) -> str:
    """``1 image``, ``5,000 images``."""
    return f"{n:,} {what}{'s' * (n != 1)}"

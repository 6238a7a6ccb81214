"""What a query found."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Sequence
from dataclasses import dataclass
from numbers import Real
from typing import TYPE_CHECKING, Any, overload

import numpy as np

from instsearch_cli.boxes import box_question, xywh
from instsearch_cli.errors import InstsearchError, UsageError

if TYPE_CHECKING:
    from pathlib import Path

    import PIL.Image

    from instsearch_cli.data import Box

XYWH = tuple[float, float, float, float]


MOST_REGIONS = 100_000  #: hits of an answer in which an image may have several
LINE = 0.5  #: the probability from which on a hit counts as found, where no min-score says another


@dataclass(frozen=True)
class Wish:
    """What is wanted of an answer.

    k          how many hits
    per_image  hits that an image may give; 0: every region that scores
    min_score  hits that score less are left out; None: as the pipeline says
    """

    k: int = 20
    per_image: int = 1
    min_score: float | None = None

    def __post_init__(self) -> None:
        for name, least in (("k", 1), ("per_image", 0)):
            value = vars(self)[name]
            if isinstance(value, bool) or not isinstance(value, (int, np.integer)) or value < least:
                raise UsageError(f"{name} is a whole number of at least {least}, not {value!r}")
            object.__setattr__(self, name, int(value))
        if self.per_image != 1 and self.k > MOST_REGIONS:
            raise UsageError(
                f"k is at most {MOST_REGIONS:,} where an image may give several hits (--per-image)"
            )
        if self.min_score is not None:
            object.__setattr__(self, "min_score", _finite(self.min_score))

    def most(self, images: int) -> int:
        """How many hits there can be of so many images."""
        return min(self.k, max(images, 1)) if self.per_image == 1 else self.k


def _finite(value: Any) -> float:
    if isinstance(value, Real) and not isinstance(value, bool):
        with contextlib.suppress(OverflowError):
            if math.isfinite(value):
                return float(value)
    raise UsageError("min_score is a number, 0.5 say")


@dataclass(frozen=True)
class View:
    """A picture of the object, or of what it is not, and where in it.

    name     what the user called the picture
    picture  its file; or itself, where it was in memory
    corners  of the box, (x0, y0, x1, y1); None: the whole picture
    size     (width, height) of the picture, upright; None: unknown
    """

    name: str
    picture: Path | PIL.Image.Image
    corners: Box | None = None
    size: tuple[int, int] | None = None

    @property
    def box(self) -> XYWH | None:
        """The box: x, y, width and height; None: the whole picture."""
        return None if self.corners is None else xywh(self.corners)

    @property
    def question(self) -> str:
        """What was asked for, in words: the box as it was understood, of which picture."""
        asked_for = "the whole picture" if self.size is None else box_question(self.box, self.size)
        return f"{self.name}: {asked_for}"


@dataclass(frozen=True)
class Hit:
    """One image found, or one of its regions.

    rank     from 1
    image    its name in the collection
    path     where it lies
    corners  (x0, y0, x1, y1) in pixels of the upright original; None: unknown
    size     (width, height) of the upright original in pixels; None: unknown
    root     the folder that the collection's names are relative to
    view     which of the answer's views it agrees with best, from 0
    index    which of the answer's indexes it is from, from 0
    row      its row in that index's image table; -1: unknown
    """

    rank: int
    image: str
    path: Path
    score: float
    corners: Box | None
    size: tuple[int, int] | None = None
    root: str = ""
    view: int = 0
    index: int = 0
    row: int = -1

    @property
    def box(self) -> XYWH | None:
        """Where the object is: x, y, width and height in pixels of the upright original; None: unknown."""
        return None if self.corners is None else xywh(self.corners)


@dataclass(frozen=True, repr=False)
class Answer(Sequence[Hit]):
    """A query and its hits, best first.

    query, picture, corners, size: its first view, as :class:`View` has it

    settings   what to say about how the hits were found, in order
    seconds    from the decoded query to the hits
    n_images   how many images were searched
    min_score  hits with a lower score were left out; None: none was
    best       the score of the best hit before that; None: there was no hit
    cautions   what one should know about this query
    pipeline   the name of the pipeline that was asked
    indexes    the indexes that were asked
    probability  scores are probabilities that a hit shows the object
    also       further views of the object
    against    what the object is not
    dropped    so many hits were none, since something in ``against`` fits them as well: of those that would count as
               found, or that would have been among these where scores are no probabilities
    refused    the rows of all images that are none for that
    near       the best of the hits that were left out, where scores are probabilities
    step       the component that ranked them, where others are to rank them again; "": this is the answer
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
    also: tuple[View, ...] = ()
    against: tuple[View, ...] = ()
    dropped: int = 0
    refused: frozenset[int] = frozenset()
    near: tuple[Hit, ...] = ()
    step: str = ""

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
    def views(self) -> tuple[View, ...]:
        """All views of the object, the query's picture first."""
        return View(self.query, self.picture, self.corners, self.size), *self.also

    @property
    def box(self) -> XYWH | None:
        """The query's box: x, y, width and height; None: the whole picture."""
        return self.views[0].box

    @property
    def question(self) -> str:
        """What was asked for first, in words: the box as it was understood, of which picture."""
        return self.views[0].question

    @property
    def found(self) -> bool:
        """Whether there is any hit."""
        return bool(self.hits)

    @property
    def line(self) -> float | None:
        """The score from which on a hit counts as found, ``min_score`` or 0.5; None: scores are no probabilities."""
        if not self.probability:
            return None
        return LINE if self.min_score is None else self.min_score

    @property
    def above(self) -> tuple[Hit, ...]:
        """The hits that count as found: all, where scores are no probabilities."""
        return self.hits if self.line is None else tuple(h for h in self.hits if h.score >= self.line)

    @property
    def below(self) -> tuple[Hit, ...]:
        """The nearest of the others, best first."""
        line = -math.inf if self.line is None else self.line
        return (*(hit for hit in self.hits if hit.score < line), *self.near)

    @property
    def shown(self) -> tuple[Hit, ...]:
        """What people are shown: what is found, and the nearest below the line."""
        return (*self.above, *self.below)

    @property
    def counts(self) -> str:
        """``20 hits``, ``20 hits in 7 images``, ``no hits``; of probabilities ``3 found``, or :attr:`nothing`."""
        if not self.above:
            return self.nothing if self._sought else "no hits"
        images = len({(hit.index, hit.row, hit.image) for hit in self.above})
        where = f" in {counted(images, 'image')}" if images < len(self.above) else ""
        what = counted(len(self.above), "hit") if self.line is None else f"{len(self.above):,} found"
        return what + where

    @property
    def _sought(self) -> bool:
        """Whether there is a score to be reached."""
        return self.min_score is not None or bool(self.below)

    @property
    def rest(self) -> str:
        """``; the 17 nearest below the line``; "" where nothing is."""
        n = len(self.below)
        return f"; the {f'{n:,} ' if n > 1 else ''}nearest below the line" if n else ""

    @property
    def title(self) -> str:
        """``3 found; the 17 nearest below the line``."""
        return f"{self.counts}{self.rest if self.above else ''}"

    @property
    def summary(self) -> str:
        """``20 hits among 5,000 images in 0.42 s``; the line where there is one, the best where nothing reached it."""
        among = f"among {counted(self.n_images, 'image')} in {self.seconds:.2f} s"
        least = "" if self.min_score is None else f" of at least {self.min_score:g}"
        if self.above:
            return f"{self.counts}{least} {among}{self.rest}"
        if self._sought:
            return f"not found: {self.nothing} {among}{self.rest}"
        return f"{self.counts} {among}"

    @property
    def nothing(self) -> str:
        """``nothing reached 0.5; the best is 0.0001``: what there is to say where nothing is found."""
        line = self.min_score if self.line is None else self.line
        if line is not None and self.best is not None:
            return f"nothing reached {line:.15g}; the best is {_below(self.best, line)}"
        if self.refused:
            return "every image agrees as well with what was given as not the object"
        return "no image has anything in common with it"

    @property
    def notes(self) -> tuple[str, ...]:
        """What else to say of the hits: how many were dropped, and what scores that are no probabilities mean."""
        said = []
        if self.refused and not self.shown and not self._sought:
            said.append(self.nothing)
        elif self.dropped:
            agree = "agrees" if self.dropped == 1 else "agree"
            said.append(
                f"{counted(self.dropped, 'hit')} {agree} better with what was given as not the object"
            )
        if self.hits and not self.probability:
            said.append("scores are no probabilities: higher is better, and that is all they say")
        return tuple(said)


def unwrapped(answer: Answer | InstsearchError) -> Answer:
    """The answer. Raises InstsearchError where it is none."""
    if isinstance(answer, InstsearchError):
        raise answer
    return answer


def _below(score: float, line: float) -> str:
    """A score below a line, in as many digits as it takes to see that, 4 at least."""
    texts = (f"{score:.{digits}g}" for digits in range(4, 18))
    return next((text for text in texts if float(text) < line), repr(score))


def counted(n: int, what: str) -> str:
    """``1 image``, ``5,000 images``."""
    return f"{n:,} {what}{'s' * (n != 1)}"

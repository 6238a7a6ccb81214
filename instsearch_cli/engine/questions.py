"""Questions: views of one object and what it is not, checked, and encoded for an engine."""

from __future__ import annotations

import os
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from instsearch_cli.boxes import box_caution, clip_box, refuse_fractions
from instsearch_cli.engine.answer import View, Wish
from instsearch_cli.engine.stages import SEARCH, TABLE
from instsearch_cli.engine.streaming import side_by_side
from instsearch_cli.errors import InstsearchError, UsageError, nearest
from instsearch_cli.images import BadImage, Photograph, shrink

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    import PIL.Image

    from instsearch_cli.data import Query
    from instsearch_cli.engine.answer import XYWH
    from instsearch_cli.engine.query import Engine

    Picture = str | os.PathLike[str] | PIL.Image.Image | np.ndarray | Photograph


ARGUMENTS = ("picture", "box", "also", "against")  #: what a question is made of
SMALL = 64  #: pixels by which pictures are taken to be one


class Part:
    """A picture and a box in it, checked. Raises InstsearchError or UsageError that says what is wrong.

    role  what it is of a question, in words; "" for what is asked first
    """

    def __init__(self, picture: Picture, box: Sequence[float] | None, role: str = "") -> None:
        self.picture, self.role = Photograph.of(picture), role
        self.corners, self.caution = None, ""
        if box is not None:
            checked = checked_box(box)
            refuse_fractions(checked, self.picture.size)
            self.corners = clip_box(checked, self.picture.size)
            self.caution = box_caution(checked, self.picture.size)

    @property
    def view(self) -> View:
        """The same, for people."""
        picture = self.picture
        return View(picture.name, picture.path or picture.original(), self.corners, picture.size)

    def is_of(self, other: Part) -> bool:
        """Whether it is the same part of the same picture, by whatever name, as another file or in memory."""
        a, b = self.picture, other.picture
        (w, h), own, theirs = a.size, self.corners, other.corners
        if a.size != b.size or (own or (0, 0, w, h)) != (theirs or (0, 0, w, h)):
            return False
        return a is b or np.array_equal(_small(a), _small(b))

    def encoded(self, engine: Engine, per_image: int) -> Query:
        """The query that it is."""
        query = engine.query(self.picture.name, self.picture, self.corners)
        return replace(query, per_image=per_image)


class Question:
    """Views of one object, and what it is not: a picture with boxes in it, and further ones.

    box            x, y, w, h, or several of these, each a view; None: the whole picture
    also, against  pictures, or pairs of one and its box or boxes

    Raises InstsearchError or UsageError that says what is wrong.
    """

    def __init__(
        self, picture: Picture, box: Any = None, also: Iterable[Any] = (), against: Iterable[Any] = ()
    ) -> None:
        read: dict[str, Photograph] = {}
        picture = _photograph(picture, read)
        self.views = [Part(picture, each) for each in boxes(box)]
        self.views += _parts("another view", "also", also, read)
        self.against = _parts("what it is not", "against", against, read)
        for part in self.against:
            if any(part.is_of(view) for view in self.views):
                raise UsageError(f"what it is not, {part.view.question}: this is what is asked for, too")

    @classmethod
    def of(cls, question: Any) -> Question:
        """A question that is given, or what a picture, (picture, box), or a dict of the arguments' names asks."""
        if isinstance(question, Question):
            return question
        if isinstance(question, dict):
            if stray := sorted(map(str, question.keys() - set(ARGUMENTS))):
                raise UsageError(f"a question has no '{stray[0]}'.{nearest(stray[0], ARGUMENTS)}")
            if "picture" not in question:
                raise UsageError(
                    "a question has a picture: {'picture': 'mug.jpg', 'box': (120, 80, 200, 150)}"
                )
            return cls(**question)
        several = isinstance(question, (tuple, list)) and len(question) == 2
        parts: Any = question if several else (question,)
        return cls(*parts)


def asked_for(
    picture: Any, box: Any, k: int, wishes: Mapping[str, Any]
) -> tuple[Question, str | None, Wish, dict[str, Any]]:
    """A question, the name of a pipeline, what is wanted of the answer, and the rest, which chooses components.

    Of the arguments of :meth:`Index.query`.
    """
    choice = dict(wishes)
    question = Question(picture, box, choice.pop("also", ()), choice.pop("against", ()))
    pipeline = choice.pop("pipeline", None)
    wish = Wish(k, choice.pop("per_image", 1), choice.pop("min_score", None))
    return question, pipeline, wish, choice


def _small(picture: Photograph) -> np.ndarray:
    """The picture u8[h, w, 3] with a longer side of SMALL pixels at most."""
    return picture.read(lambda w, h: shrink(w, h, SMALL)).pixels


def boxes(box: Any) -> list[Any]:
    """Boxes out of one, several or None. Raises UsageError for an empty list of them."""
    single = box.ndim != 2 if isinstance(box, np.ndarray) else not isinstance(box, (list, tuple))
    if single or (len(box) and np.isscalar(box[0])):
        return [box]
    if not len(box):
        raise UsageError("there is no box in the list of boxes: give None for the whole picture")
    return list(box)


def _photograph(picture: Any, read: dict[str, Photograph]) -> Photograph:
    """A picture that is given; a file that is given twice is one picture, which is described once."""
    if not isinstance(picture, (str, os.PathLike)):
        return Photograph.of(picture)
    name = os.fsdecode(picture)
    if name not in read:
        read[name] = Photograph.of(picture)
    return read[name]


def _parts(role: str, name: str, given: Iterable[Any], read: dict[str, Photograph]) -> list[Part]:
    """The parts that are given as pictures or pairs. Raises InstsearchError that says which of them is wrong."""
    if not isinstance(given, (list, tuple)):
        raise UsageError(f"{name} is a list of pictures, or of pairs of a picture and a box")
    parts = []
    for each in given:
        pair: Any = each if isinstance(each, (list, tuple)) and len(each) == 2 else (each, None)
        picture, box = pair
        called = ""
        try:
            photograph = _photograph(picture, read)
            called = f"{photograph.name}: "
            parts += [Part(photograph, one, role) for one in boxes(box)]
        except InstsearchError as error:
            kind = UsageError if isinstance(error, UsageError) else InstsearchError
            raise kind(f"{role}, {called}{error}") from error
    return parts


def checked_box(box: Sequence[float]) -> XYWH:
    """A box x, y, w, h of numbers. Raises UsageError for another."""
    try:
        x, y, w, h = (float(v) for v in box)
    except (TypeError, ValueError):
        x = y = w = h = float("nan")
    except OverflowError:
        x, y, w, h = box = (float("inf"),) * 4
    if not np.isfinite((x, y, w, h)).all() or w <= 0 or h <= 0:
        raise UsageError(
            "a box is x, y, width and height in pixels of the upright picture, width and height above 0, "
            f"for example (120, 80, 200, 150); got {box!r}"
        )
    return x, y, w, h


@dataclass(frozen=True, eq=False)
class Encoded:
    """A question as an engine takes it: parts that say something with their queries, and what to know of them."""

    views: list[tuple[Part, Query]]
    against: list[tuple[Part, Query]]
    cautions: list[str]

    @property
    def plain(self) -> bool:
        """Whether it is one view and nothing else."""
        return len(self.views) == 1 and not self.against

    @property
    def queries(self) -> list[Query]:
        """Of its views, then of what the object is not."""
        return [query for _, query in (*self.views, *self.against)]


def encoded(engine: Engine, questions: Sequence[Question], per_image: int) -> list[Encoded | InstsearchError]:
    """The questions' queries, made side by side where the pipeline's components work in several threads.

    Of several parts one in which there is nothing to describe is left out, with a caution. What is wrong with a
    question, where no view is left or a picture cannot be read, is in its place.
    """
    parts = [part for question in questions for part in (*question.views, *question.against)]
    queries = dict(zip(map(id, parts), _queries(engine, parts, per_image), strict=True))
    found: list[Encoded | InstsearchError] = []
    for question in questions:
        try:
            found.append(_encoded(engine, question, queries))
        except InstsearchError as error:
            found.append(error)
    return found


def _queries(engine: Engine, parts: Sequence[Part], per_image: int) -> list[Query | InstsearchError]:
    def encode(part: Part) -> Query | InstsearchError:
        try:
            return part.encoded(engine, per_image)
        except InstsearchError as error:
            return error

    described = [part for stage, part in engine.assembly.stages.items() if stage != TABLE[SEARCH].stage]
    if len(parts) == 1 or not all(part.component.concurrent for part in described):
        return [encode(part) for part in parts]
    queries = []
    for _, query in side_by_side(parts, encode):
        if isinstance(query, BadImage):
            raise query
        queries.append(query)
    return queries


def _encoded(engine: Engine, question: Question, queries: dict[int, Query | InstsearchError]) -> Encoded:
    several = len(question.views) + len(question.against) > 1
    cautions: list[str] = []
    left: list[list[tuple[Part, Query]]] = []
    for parts in (question.views, question.against):
        usable, error = [], None
        for part in parts:
            query, name = queries[id(part)], part.picture.name
            if isinstance(query, InstsearchError):
                if isinstance(query.__cause__, BadImage):
                    raise UsageError(f"{part.role}, {query}") if part.role else query from query.__cause__
                error = error or query
                reason = str(query).removeprefix(f"query '{name}': ")
                cautions.append(f"{part.view.question}: left out, {reason}")
                continue
            said = [part.caution, *engine.cautions(query)]
            cautions += [
                f"{part.view.question}: {t}" if several and t != engine.caution else t for t in said if t
            ]
            usable.append((part, replace(query, against=parts is question.against)))
        if error and parts is question.views and not usable:
            raise UsageError(f"no view is left to ask for: {error}") if several else error
        left.append(usable)
    return Encoded(left[0], left[1], list(dict.fromkeys(cautions)))

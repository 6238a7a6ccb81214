"""What the service does, without HTTP: pictures in, questions answered, answers taken away."""

from __future__ import annotations

import contextlib
import json
import re
import shlex
import tempfile
import threading
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import PIL.Image

from instsearch_cli.engine import together
from instsearch_cli.engine.besides import UNALIGNED, Uncompared
from instsearch_cli.engine.session_file import SavedPicture, SavedView, Session, read_session, write_session
from instsearch_cli.errors import InstsearchError, UsageError, printable
from instsearch_cli.images import BadImage, Photograph, read_header
from instsearch_cli.report.markup import jpeg_uri
from instsearch_cli.report.page import page
from instsearch_cli.report.pictures import Thumbnail, thumbnail
from instsearch_cli.report.results import to_csv, to_json
from instsearch_cli.report.takeaway import to_annotations, to_trec, to_zip
from instsearch_cli.serve.previews import Previews
from instsearch_cli.serve.problems import Problem
from instsearch_cli.serve.questions import Ref
from instsearch_cli.serve.questions import question as checked
from instsearch_cli.serve.shelf import Image, Served, Shelf
from instsearch_cli.serve.uploads import Upload, Uploads

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Iterator, Sequence

    from instsearch_cli.engine.answer import XYWH, Answer, View
    from instsearch_cli.serve.previews import Preview
    from instsearch_cli.serve.questions import Part, Question

SIDE = 480  #: of the pictures in a report


class Service:
    """Warm indexes, pictures that were handed in, previews of both.

    task  what the page is for beside searching; None: nothing else
    """

    def __init__(
        self, paths: Sequence[Path], device: str = "auto", task: dict[str, Any] | None = None
    ) -> None:
        self.shelf, self.uploads, self.previews = Shelf(paths, device), Uploads(), Previews()
        self.task = task
        self.boxes: list[tuple[float, ...]] | None = None  #: that were drawn, where that was the task
        self.done = threading.Event()  #: the task is

    def close(self) -> None:
        """Let go of everything."""
        self.uploads.close()
        self.shelf.close()

    # -- pictures -------------------------------------------------------------------------------------

    def photograph(self, ref: Ref) -> Photograph:
        """The picture that is meant. Raises Problem where it is not there."""
        if ref.index >= 0:
            return self.shelf.photograph(ref.index, ref.row)
        return self._handed_in(ref).photograph

    def _handed_in(self, ref: Ref) -> Upload:
        if ref.held is not None:
            return ref.held
        return self.uploads.put(ref.data, ref.name) if ref.data else self.uploads.get(ref.upload)

    def held(self, question: Question) -> Question:
        """The question with its pictures that were handed in, which nobody else's drive out as long as it is there."""

        def hold(part: Part) -> Part:
            ref, box = part
            return (ref if ref.index >= 0 else Ref(held=self._handed_in(ref))), box

        return replace(
            question, views=tuple(map(hold, question.views)), against=tuple(map(hold, question.against))
        )

    def preview(self, path: Path, name: str, side: int) -> Preview:
        """A JPEG of a file that is called so. Raises Problem where it cannot be read."""
        with _named(name):
            return self.previews.of(path, side)

    def format(self, image: Image) -> str:
        """What an image's file is, "JPEG" say. Raises Problem where it cannot be read."""
        with _named(image.name):
            return read_header(image.path).format

    # -- questions ------------------------------------------------------------------------------------

    def answers(self, question: Question) -> Generator[Answer, None, None]:
        """The answer as it comes. Raises Problem and InstsearchError."""
        question = self.held(question)
        indexes = [each.index() for each in self.served(question)]
        yield from together.answers(indexes, **self._asking(question))

    def answer(self, question: Question) -> Answer:
        """The answer. Raises Problem and InstsearchError."""
        question = self.held(question)
        return together.query([each.index() for each in self.served(question)], **self._asking(question))

    def served(self, question: Question) -> list[Served]:
        """The indexes that are asked. Raises Problem for one that is not here."""
        if not self.shelf.served:
            raise Problem(400, "no index is served here")
        ids = range(len(self.shelf.served)) if question.indexes is None else question.indexes
        return [self.shelf[id] for id in ids]

    def _asking(self, question: Question) -> dict[str, Any]:
        (picture, box), *also = self._pairs(question.views)
        against = self._pairs(question.against)
        return {
            "picture": picture,
            "box": box,
            "k": question.k,
            "also": also,
            "against": against,
            **question.wishes,
        }

    def _pairs(self, parts: Sequence[Part]) -> list[tuple[Photograph, Any]]:
        return [(self.photograph(ref), box) for ref, box in parts]

    def aligned(self, question: Question, view: int, index: int, row: int) -> dict[str, Any]:
        """An image beside a view of the question, aligned, as a JPEG in the JSON; null and why, where it cannot be."""
        if not 0 <= view < len(question.views):
            raise Problem(400, f"view is a number from 0 to {len(question.views) - 1}, not {view}")
        served = self.shelf[index]
        ref, box = self.held(question).views[view]
        image = served.image(row)
        image.check()
        try:
            found = served.index().beside(self.photograph(ref), box, image.path, **question.choice)
        except Uncompared as error:
            return {"picture": None, "agreement": None, "disagreement": None, "text": str(error)}
        if found is None:
            return {"picture": None, "agreement": None, "disagreement": None, "text": UNALIGNED}
        picture = PIL.Image.fromarray(found.picture)
        return {
            "picture": jpeg_uri(Thumbnail(picture, picture.size)),
            "agreement": found.agreement,
            "disagreement": found.disagreement,
            "text": found.text,
        }

    # -- what is taken away ---------------------------------------------------------------------------

    def export(self, question: Question, form: str) -> tuple[bytes | Path, str, str]:
        """An answer as a file: its bytes, or where they are for once, media type and name.

        Raises Problem for a form that is none.
        """
        if form not in FORMS:
            raise Problem(400, f"format is one of {', '.join(FORMS)}, not '{printable(form[:40])}'")
        media, suffix, write = FORMS[form]
        question = self.held(question)
        answer = self.answer(question)
        stem = re.sub(r"[^\w.-]+", "-", answer.query.rpartition("/")[2].rpartition(".")[0]) or "hits"
        data = self._report(question, answer) if write is None else write(answer)
        return data, media, f"{stem}-hits.{suffix}"

    def _report(self, question: Question, answer: Answer) -> bytes:
        """The page, with pictures that were handed in as they are now: their files are the service's."""
        besides = together.besides(
            [each.index() for each in self.served(question)], answer, **question.choice
        )

        def held(view: View) -> View:
            return replace(view, picture=thumbnail(view.picture, SIDE).image)

        also, against = (tuple(map(held, views)) for views in (answer.also, answer.against))
        whole = replace(answer, picture=held(answer.views[0]).picture, also=also, against=against)
        return page(whole, besides=besides).encode()

    def command(self, question: Question) -> str:
        """The command line that asks the same; pictures that were handed in by the names that they came with."""
        question = self.held(question)
        words = ["instsearch", "query"]
        (first, box), *rest = question.views
        words.append(self._name(first))
        words += [] if box is None else ["--box", _exact(box)]
        for flag, parts in (("--also", rest), ("--not", question.against)):
            for ref, where in parts:
                words += [flag, self._name(ref) + ("" if where is None else f":{_exact(where)}")]
        for served in self.served(question):
            words += ["--index", str(served.path)]
        words += ["-k", str(question.k)]
        for name, value in question.wishes.items():
            flag = f"--{name.replace('_', '-')}"
            if name == "rerank":
                words += [word for each in value or ["none"] for word in (flag, each)]
            elif value is True:
                words.append(flag)
            elif value is not False:
                words += [flag, str(value)]
        return shlex.join(words)

    # -- sessions -------------------------------------------------------------------------------------

    def session(self, question: Question, marks: dict[str, Any]) -> str:
        """A question with its pictures, and what was marked, as the text of a file."""

        def view(part: Part) -> SavedView:
            ref, box = part
            photograph = self.photograph(ref)
            assert photograph.path is not None
            if ref.index >= 0:
                return SavedView(SavedPicture(photograph.path.name, photograph.path), box)
            return SavedView(SavedPicture(photograph.name, None, photograph.path.read_bytes()), box)

        question = self.held(question)
        wishes: dict[str, Any] = dict(question.wishes)
        if "rerank" in wishes:
            wishes["rerank"] = tuple(wishes["rerank"])
        return write_session(
            Session(
                tuple(map(view, question.views)),
                tuple(map(view, question.against)),
                tuple(served.path.absolute() for served in self.served(question)),
                k=question.k,
                marks=marks,
                **wishes,
            )
        )

    def opened(self, data: bytes) -> dict[str, Any]:
        """A session's question and marks as JSON, its pictures handed in, or found in the indexes.

        Raises InstsearchError for what is none, or asks more than is answered here; pictures that are named by a path
        have to be of the indexes.
        """
        session = read_session(data)
        pictures: list[dict[str, Any]] = []
        own = sorted(self.shelf.served, key=lambda each: each.path.absolute() not in session.indexes)

        def part(view: SavedView) -> dict[str, Any]:
            picture = self._brought(view.picture, own)
            if picture not in pictures:
                pictures.append(picture)
            ref = {key: picture[key] for key in ("upload", "index", "row") if key in picture}
            return {"picture": ref, "box": None if view.box is None else list(view.box)}

        views, against = ([part(view) for view in some] for some in (session.views, session.against))
        places = {served.path.absolute(): served.id for served in self.shelf.served}
        there = [places[path] for path in session.indexes if path in places]
        asked_for: dict[str, Any] = {
            "views": views,
            "against": against,
            "indexes": there or None,
            "pipeline": session.pipeline,
        }
        asked_for |= {
            "rerank": None if session.rerank is None else list(session.rerank),
            "refine": session.refine,
        }
        asked_for |= {"k": session.k, "per_image": session.per_image, "min_score": session.min_score}
        try:
            checked(asked_for)
        except UsageError as error:
            raise InstsearchError(f"the session: {error}") from error
        return {"question": asked_for, "marks": dict(session.marks), "pictures": pictures}

    def _brought(self, picture: SavedPicture, indexes: Sequence[Served]) -> dict[str, Any]:
        """A picture of a session as JSON; one that is named by a path is of the first index that has it."""
        if picture.data is not None:
            return self.uploads.put(picture.data, picture.name).plain()
        assert picture.path is not None
        for served in indexes:
            row = served.row_of(picture.path)
            if row is not None:
                return {"index": served.id, **served.image(row).plain()}
        raise Problem(
            422,
            f"{printable(picture.path)} is in no index that is open here: open the one that it is of, too",
        )

    def _name(self, ref: Ref) -> str:
        photograph = self.photograph(ref)
        if ref.index >= 0:
            return str(photograph.path)
        return f"./{photograph.name}" if photograph.name.startswith("-") else photograph.name


@contextlib.contextmanager
def _named(name: str) -> Iterator[None]:
    try:
        yield
    except BadImage as error:
        raise Problem(422, f"{name}: {error.reason}") from error


def _exact(box: XYWH) -> str:
    """A box as ``--box`` takes it, to a hundredth of a pixel."""
    return ",".join(f"{round(v, 2):.10g}" for v in box)


def _plain(table: dict[str, Any]) -> bytes:
    return json.dumps(table, indent=1).encode()


def _zip(answer: Answer) -> Path:
    """A file with the photographs; whoever sends it removes it."""
    with tempfile.NamedTemporaryFile(prefix="instsearch-", suffix=".zip", delete=False) as file:
        to_zip(answer, file)
    return Path(file.name)


FORMS: dict[str, tuple[str, str, Callable[[Answer], bytes | Path] | None]] = {
    "csv": ("text/csv; charset=utf-8", "csv", lambda answer: to_csv(answer).encode()),
    "json": ("application/json", "json", lambda answer: _plain(to_json(answer))),
    "annotations": ("application/ld+json", "jsonld", lambda answer: _plain(to_annotations(answer))),
    "trec": ("text/plain; charset=utf-8", "trec", lambda answer: to_trec(answer).encode()),
    "zip": ("application/zip", "zip", _zip),
    "html": ("text/html; charset=utf-8", "html", None),
}
"""Media type, suffix and writer of each form in which an answer is taken away; None: it needs the indexes, too."""

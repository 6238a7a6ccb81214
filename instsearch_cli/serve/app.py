"""The HTTP interface, version 1: what is asked of the service, by path. docs/guide/serve.md describes it."""

from __future__ import annotations

import functools
import re
import time
from typing import TYPE_CHECKING, Any

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.responses import Response
from starlette.routing import Route

from instsearch_cli import __version__
from instsearch_cli.engine.session_file import checked_marks
from instsearch_cli.errors import UsageError, printable
from instsearch_cli.outside.text import parse_json
from instsearch_cli.report.results import to_json
from instsearch_cli.serve import measures as counting
from instsearch_cli.serve import questions as asking
from instsearch_cli.serve.guard import MOST_BODY, Guard
from instsearch_cli.serve.openapi import document
from instsearch_cli.serve.previews import LARGEST, SMALLEST, tag_of
from instsearch_cli.serve.problems import Problem, problem_of
from instsearch_cli.serve.shelf import rerankers
from instsearch_cli.serve.work import NDJSON, File, Json, Lines, Workers

if TYPE_CHECKING:
    from collections.abc import Generator
    from pathlib import Path

    from starlette.requests import Request

    from instsearch_cli.serve.guard import Door
    from instsearch_cli.serve.questions import Question
    from instsearch_cli.serve.service import Service
    from instsearch_cli.serve.shelf import Image
    from instsearch_cli.serve.uploads import Upload

MOST_LISTED = 500  #: images in one answer
MOST_QUESTIONS = 10_000  #: in a batch
FILES = 20  #: in a form


class Interface:
    """The requests that there are, each a method."""

    def __init__(self, service: Service) -> None:
        self.service, self.workers, self.measures = service, Workers(), counting.Measures(service)

    def routes(self) -> list[Route]:
        """Paths and methods."""
        image = "/v1/indexes/{index:int}/images/{row:int}"
        return [
            Route("/", self.page),
            Route("/health", self.health),
            Route("/metrics", self.metrics),
            Route("/v1/openapi.json", self.openapi),
            Route("/v1/indexes", self.indexes),
            Route("/v1/indexes/{index:int}/images", self.images),
            Route(image, self.image),
            Route(f"{image}/file", self.file),
            Route("/v1/pictures", self.hand_in, methods=["POST"]),
            Route("/v1/pictures/{id}", self.picture),
            Route("/v1/query", self.query, methods=["POST"]),
            Route("/v1/batch", self.batch, methods=["POST"]),
            Route("/v1/aligned", self.aligned, methods=["POST"]),
            Route("/v1/export", self.export, methods=["POST"]),
            Route("/v1/command", self.command, methods=["POST"]),
            Route("/v1/session", self.session, methods=["POST"]),
            Route("/v1/session/open", self.open_session, methods=["POST"]),
            Route("/v1/box", self.box, methods=["POST"]),
        ]

    # -- the page, and about the service --------------------------------------------------------------

    async def page(self, request: Request) -> Response:
        from instsearch_cli.serve.page import page

        text, policy = page()
        return Response(text, media_type="text/html", headers={"content-security-policy": policy})

    async def health(self, request: Request) -> Response:
        return Json({"status": "ok"})

    async def metrics(self, request: Request) -> Response:
        return Response(self.measures.text(), headers={"content-type": counting.MEDIA_TYPE})

    async def openapi(self, request: Request) -> Response:
        return Json(document())

    # -- pictures -------------------------------------------------------------------------------------

    async def indexes(self, request: Request) -> Response:
        served = self.service.shelf.served
        plain = await self.workers.picture(lambda: [each.plain() for each in served])
        limits = {"bytes": self.service.uploads.bytes_each, "pictures": self.service.uploads.pictures}
        return Json(
            {
                "version": 1,
                "program": __version__,
                "task": self.service.task,
                "indexes": plain,
                "rerankers": rerankers(),
                "limits": {**limits, "k": asking.MOST_HITS},
            }
        )

    async def images(self, request: Request) -> Response:
        served = self.service.shelf[request.path_params["index"]]
        offset, limit = (
            _number(request, "offset", 0, 0, 10**10),
            _number(request, "limit", 60, 1, MOST_LISTED),
        )
        words = request.query_params.get("search", "")[:200].casefold().split()

        def found() -> tuple[int, list[dict[str, Any]]]:
            listed = served.images()
            if words:
                listed = [each for each in listed if all(word in each[1].casefold() for word in words)]
            some = listed[offset : offset + limit]
            return len(listed), [
                {"row": row, "name": name, "size": [record.width, record.height]}
                for row, name, record in some
            ]

        total, images = await self.workers.picture(found)
        return Json({"total": total, "images": images})

    async def image(self, request: Request) -> Response:
        image = self._image(request)
        return await self._preview(request, image.path, image.name)

    async def file(self, request: Request) -> Response:
        image = self._image(request)
        form = await self.workers.picture(self.service.format, image)  # what is no picture is not handed out
        headers = {"content-disposition": _attached(printable(image.path.name))}
        return File(image.path, media_type=f"image/{form.lower()}", headers=headers)

    def _image(self, request: Request) -> Image:
        image = self.service.shelf[request.path_params["index"]].image(request.path_params["row"])
        image.check()
        return image

    async def picture(self, request: Request) -> Response:
        upload = self.service.uploads.get(request.path_params["id"])
        return await self._preview(request, upload.path, upload.name)

    async def _preview(self, request: Request, path: Path, name: str) -> Response:
        side = _number(request, "side", 1024, SMALLEST, LARGEST)
        headers = {"cache-control": "private, no-cache"}
        if request.headers.get("if-none-match") == f'"{tag_of(path, side)}"':
            return Response(status_code=304, headers=headers)
        preview = await self.workers.picture(self.service.preview, path, name, side)
        headers["etag"] = f'"{preview.tag}"'
        return Response(preview.data, media_type="image/jpeg", headers=headers)

    async def hand_in(self, request: Request) -> Response:
        if _is_form(request):
            uploads, _ = await self._form(request)
            if len(uploads) != 1:
                raise Problem(400, "hand in one file at a time")
            ((_, upload),) = uploads
        else:
            name = request.query_params.get("name", "")[:200]
            upload = await self.workers.picture(self.service.uploads.put, await request.body(), name)
        return Json(upload.plain(), 201)

    async def _form(self, request: Request) -> tuple[list[tuple[str, Upload]], dict[str, list[str]]]:
        """Files of a form, handed in, each with the name of its field, and the other fields."""
        uploads: list[tuple[str, Upload]] = []
        fields: dict[str, list[str]] = {}
        async with request.form(max_files=FILES, max_fields=100, max_part_size=MOST_BODY) as form:
            for name, value in form.multi_items():
                if isinstance(value, str):
                    fields.setdefault(name, []).append(value)
                else:
                    data, called = await value.read(), value.filename or name
                    uploads.append((name, await self.workers.picture(self.service.uploads.put, data, called)))
        return uploads, fields

    # -- questions ------------------------------------------------------------------------------------

    async def query(self, request: Request) -> Lines:
        if _is_form(request):
            uploads, fields = await self._form(request)
            files = [name for name, _ in uploads]
            others = sorted({*files, *fields} - {"picture", "box", "question"})
            if others or files != ["picture"] or len(fields.get("question", [])) > 1:
                raise UsageError(
                    "a form has one file 'picture', and may have fields 'box', x,y,w,h, and one 'question', JSON, "
                    'with all else that is asked, {"k": 3} say'
                    + "".join(f"; it has no field '{name}'" for name in others[:1])
                )
            rest = parse_json(fields["question"][0], "question") if "question" in fields else None
            given = asking.of_form(rest, fields.get("box", []), asking.Ref(held=uploads[0][1]))
        else:
            given = asking.question(await _json_of(request))
        given = await self.workers.picture(self.service.held, given)
        streamed = NDJSON in request.headers.get("accept", "")
        steps = _number(request, "steps", 0, 0, 100)
        return Lines(self.workers, lambda: self._answers(given, streamed, steps), streamed)

    def _answers(self, question: Question, streamed: bool, steps: int = 0) -> Generator[dict[str, Any]]:
        """The answer as it comes, or alone; of the first so many steps where that is not 0."""
        began = time.perf_counter()
        with self.measures.asking.track_inprogress():
            if not streamed:
                answer = self.service.answer(question)
            else:
                for step, answer in enumerate(self.service.answers(question), 1):
                    if not answer.step:
                        break
                    if step == 1:
                        self.measures.first.observe(time.perf_counter() - began)
                    yield {"final": False, "step": answer.step, **to_json(answer)}
                    if step == steps:
                        return
            self.measures.last.observe(time.perf_counter() - began)
            yield {"final": True, "step": "", **to_json(answer)} if streamed else to_json(answer)

    async def batch(self, request: Request) -> Lines:
        table = await _json_of(request)
        given = table.get("questions") if isinstance(table, dict) else None
        if not isinstance(given, list) or not 0 < len(given) <= MOST_QUESTIONS:
            raise UsageError(f'a batch is {{"questions": [...]}}, of 1 to {MOST_QUESTIONS:,}')
        questions = [asking.question(each) for each in given]
        return Lines(
            self.workers, lambda: (self._answer_or_problem(each) for each in questions), streamed=True
        )

    def _answer_or_problem(self, question: Question) -> dict[str, Any]:
        try:
            (answer,) = self._answers(question, streamed=False)
            return answer
        except Exception as error:
            problem = problem_of(error)
            if problem.status == 500:
                raise
            return {"problem": problem.body}

    async def aligned(self, request: Request) -> Response:
        table = await _json_of(request)
        question, hit, view = _question_of(table), table.get("hit"), table.get("view", 0)
        numbers = [hit.get("index"), hit.get("row"), view] if isinstance(hit, dict) else []
        if not numbers or any(type(number) is not int for number in numbers):
            raise UsageError('give {"question": {...}, "view": 0, "hit": {"index": 0, "row": 17}}')
        index, row, view = numbers
        question = await self.workers.picture(self.service.held, question)
        work = functools.partial(self.service.aligned, question, view, index, row)
        return Json(await self._thoroughly(work))

    async def export(self, request: Request) -> Response:
        question, form = await self._question(request), request.query_params.get("format", "")
        question = await self.workers.picture(self.service.held, question)
        data, media, name = await self._thoroughly(lambda: self.service.export(question, form))
        headers = {"content-type": media, "content-disposition": _attached(name)}
        if isinstance(data, bytes):
            return Response(data, headers=headers)
        return File(data, once=True, headers=headers)

    async def command(self, request: Request) -> Response:
        question = await self._question(request)
        return Json({"command": await self.workers.picture(self.service.command, question)})

    async def session(self, request: Request) -> Response:
        table = await _json_of(request)
        question = _question_of(table)
        marks = {} if table.get("marks") is None else checked_marks(table["marks"])
        text = await self.workers.picture(self.service.session, question, marks)
        headers = {"content-disposition": _attached("session.json")}
        return Response(text, media_type="application/json", headers=headers)

    async def open_session(self, request: Request) -> Response:
        return Json(await self.workers.picture(self.service.opened, await request.body()))

    async def _question(self, request: Request) -> Question:
        return _question_of(await _json_of(request))

    async def _thoroughly(self, work: Any) -> Any:
        """Something that asks: in the same queue as questions."""
        import anyio.to_thread

        self.workers.check()
        return await anyio.to_thread.run_sync(work, limiter=self.workers.questions)

    # -- drawing a box --------------------------------------------------------------------------------

    async def box(self, request: Request) -> Response:
        if self.service.task is None:
            raise Problem(404, "nobody waits for a box here")
        table = await _json_of(request)
        given = table.get("boxes") if isinstance(table, dict) else None
        if not isinstance(given, list) or not 0 < len(given) <= asking.MOST_PARTS:
            raise UsageError('give {"boxes": [[x, y, width, height], ...]}')
        parts = [{"picture": {"upload": "-"}, "box": each} for each in given]
        boxes = [box for _, box in asking.question({"views": parts}).views if box is not None]
        if len(boxes) < len(parts):
            raise UsageError("a box is [x, y, width, height], not null")
        self.service.boxes = list(boxes)
        self.service.done.set()
        return Response(status_code=204)


def application(service: Service, door: Door) -> Starlette:
    """The service as an ASGI application, guarded by a door."""
    interface = Interface(service)
    guard = Middleware(Guard, door=door, measures=interface.measures)
    return Starlette(
        routes=interface.routes(), middleware=[guard], exception_handlers={HTTPException: _refuse}
    )


async def _refuse(request: Request, error: Exception) -> Response:
    """What the framework refuses is a problem like any other."""
    assert isinstance(error, HTTPException)
    detail = {404: "there is nothing at this address", 405: "this address takes another method"}
    said = detail.get(error.status_code, str(error.detail))
    raise Problem(error.status_code, said, dict(error.headers or {})) from error


def _number(request: Request, name: str, default: int, low: int, high: int) -> int:
    text = request.query_params.get(name)
    if text is None:
        return default
    if not re.fullmatch(r"\d{1,12}", text) or not low <= int(text) <= high:
        raise UsageError(f"{name} is a whole number from {low:,} to {high:,}")
    return int(text)


def _is_form(request: Request) -> bool:
    return request.headers.get("content-type", "").lower().startswith("multipart/form-data")


def _question_of(table: Any) -> Question:
    if not isinstance(table, dict) or "question" not in table:
        raise UsageError('give {"question": {...}}')
    return asking.question(table["question"])


async def _json_of(request: Request) -> Any:
    try:
        text = (await request.body()).decode("utf-8")
    except UnicodeDecodeError as error:
        raise UsageError("the request is not JSON in UTF-8") from error
    return parse_json(text, "the request")


def _attached(name: str) -> str:
    from urllib.parse import quote

    plain = re.sub(r"[^A-Za-z0-9_.-]", "_", name)
    return f"attachment; filename=\"{plain}\"; filename*=UTF-8''{quote(name)}"

"""Work of a request in a thread, its results sent as they come; where the client has gone it is not begun, or ends."""

from __future__ import annotations

import contextlib
import json
import math
import os
import threading
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import anyio
import anyio.to_thread
from starlette.responses import FileResponse, JSONResponse

from instsearch_cli.serve.problems import Problem, problem_of

if TYPE_CHECKING:
    from collections.abc import Callable, Generator

    from starlette.types import Message, Receive, Scope, Send

R = TypeVar("R")

ANSWERED = 16  #: questions at once: an engine takes them in turns, step by step
WAITING = 64  #: further questions that wait; more are sent away
NDJSON = "application/x-ndjson"


class Workers:
    """Threads for questions, and others for pictures, so that neither waits for the other."""

    def __init__(self) -> None:
        self.questions = anyio.CapacityLimiter(ANSWERED)
        self.pictures = anyio.CapacityLimiter(max(4, os.cpu_count() or 1))

    async def picture(self, work: Callable[..., R], *arguments: Any) -> R:
        """Something quick, of pictures or names."""
        return await anyio.to_thread.run_sync(work, *arguments, limiter=self.pictures)

    def check(self) -> None:
        """Raises Problem where too many questions wait."""
        if self.questions.statistics().tasks_waiting >= WAITING:
            raise Problem(503, "too many questions at once: ask again in a moment", {"Retry-After": "2"})


class Lines:
    """A response of JSON lines, each sent as soon as there is one; or of the last alone, as JSON.

    What is raised before the first line is a problem; after it, a line {"problem": …}.
    """

    def __init__(
        self, workers: Workers, lines: Callable[[], Generator[dict[str, Any]]], streamed: bool
    ) -> None:
        workers.check()
        self.workers, self.lines, self.streamed = workers, lines, streamed

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        gone = threading.Event()
        into, out = anyio.create_memory_object_stream[dict[str, Any] | Exception](math.inf)

        def work() -> None:
            try:
                with contextlib.closing(self.lines()) as lines:
                    for line in lines:
                        if gone.is_set():
                            return
                        anyio.from_thread.run_sync(into.send_nowait, line)
            except Exception as error:
                if not gone.is_set():
                    anyio.from_thread.run_sync(into.send_nowait, error)

        async def produce() -> None:
            with into:
                await anyio.to_thread.run_sync(work, limiter=self.workers.questions, abandon_on_cancel=True)

        async def listen() -> None:
            while (await receive())["type"] != "http.disconnect":
                pass
            group.cancel_scope.cancel()

        failed: Exception | None = None
        try:
            async with anyio.create_task_group() as group:
                group.start_soon(produce)
                group.start_soon(listen)
                with out:
                    failed = await self._send(out, send)
                group.cancel_scope.cancel()
        finally:
            gone.set()
        if failed is not None:
            raise failed

    async def _send(self, out: Any, send: Send) -> Exception | None:
        """Send the lines; returns what was raised before the first."""
        begun, last = False, None
        async for line in out:
            if isinstance(line, Exception):
                if not begun:
                    return line
                line = {"problem": problem_of(line).body}
            last = line
            if self.streamed:
                if not begun:
                    await self._start(send, NDJSON)
                await send({"type": "http.response.body", "body": encoded(line) + b"\n", "more_body": True})
                begun = True
        if last is None:
            return Problem(500, "there is no answer")
        if not self.streamed:
            await self._start(send, "application/json")
        await send({"type": "http.response.body", "body": b"" if self.streamed else encoded(last)})
        return None

    async def _start(self, send: Send, media: str) -> None:
        await send(
            {"type": "http.response.start", "status": 200, "headers": [(b"content-type", media.encode())]}
        )


def encoded(value: Any) -> bytes:
    r"""JSON in ASCII: a name that is not UTF-8 stays one that a reader of JSON takes, ``\udcff`` for the byte ff."""
    return json.dumps(value, allow_nan=False, separators=(",", ":")).encode("ascii")


class Json(JSONResponse):
    """A response of :func:`encoded` JSON."""

    def render(self, content: Any) -> bytes:
        """The body."""
        return encoded(content)


class File(FileResponse):
    """A file, or the part of it that is wanted, gone after that where it is there but ``once``."""

    def __init__(self, path: Path, once: bool = False, **options: Any) -> None:
        super().__init__(path, **options)
        self.once = once

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async def refuse(message: Message) -> None:
            if message["type"] == "http.response.start" and message["status"] >= 400:
                given = {name.decode(): value.decode() for name, value in message["headers"]}
                kept = {name: value for name, value in given.items() if name == "content-range"}
                raise Problem(message["status"], "Range is of bytes that the file has, bytes=0-99 say", kept)
            await send(message)

        try:
            await super().__call__(scope, receive, refuse)
        finally:
            if self.once:
                Path(self.path).unlink(missing_ok=True)

"""What is told of a request that was not answered: problem details (RFC 9457), in the library's sentences."""

from __future__ import annotations

from http import HTTPStatus
from typing import Any

from instsearch_cli.errors import IndexInUse, InstsearchError, UsageError, printable
from instsearch_formats import FormatError

MEDIA_TYPE = "application/problem+json"


class Problem(Exception):  # noqa: N818
    """A request that is answered with a status of 400 or more; the detail says in a sentence what to do."""

    def __init__(self, status: int, detail: str, headers: dict[str, str] | None = None) -> None:
        super().__init__(detail)
        self.status, self.detail, self.headers = status, detail, headers or {}

    @property
    def body(self) -> dict[str, Any]:
        """As JSON."""
        return {
            "type": "about:blank",
            "title": HTTPStatus(self.status).phrase,
            "status": self.status,
            "detail": "\n".join(map(printable, self.detail.split("\n"))),
        }


def problem_of(error: Exception) -> Problem:
    """An error as a problem: wrong questions are 400, what the index or a file cannot give 422, all else 500."""
    match error:
        case Problem():
            return error
        case UsageError():
            return Problem(400, str(error))
        case IndexInUse():
            return Problem(503, str(error), {"Retry-After": "1"})
        case InstsearchError() | FormatError():
            return Problem(422, str(error))
        case OSError() if error.strerror:
            return Problem(500, f"{error.strerror}: {error.filename}" if error.filename else error.strerror)
    return Problem(500, f"{type(error).__name__}: {error}\nThis is a bug; the service's log shows where.")

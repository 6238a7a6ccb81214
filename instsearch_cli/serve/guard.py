"""Who is let in: the host, origin and token of every request are checked, and what it sends is bounded.

A page of another site can make a browser send requests to this machine (Host and Origin tell), and a name of another
site's can be made to lead here (Host tells); a program of another user of this machine has no token.
"""

from __future__ import annotations

import contextlib
import hmac
import json
import logging
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import anyio
from starlette.requests import ClientDisconnect

from instsearch_cli.engine.session_file import MOST_BYTES
from instsearch_cli.errors import printable
from instsearch_cli.serve.problems import MEDIA_TYPE, Problem, problem_of

if TYPE_CHECKING:
    from collections.abc import Iterator

    from starlette.types import ASGIApp, Message, Receive, Scope, Send

    from instsearch_cli.serve.measures import Measures

LARGER = {"/v1/session/open": MOST_BYTES}  #: paths with a bound of their own
OPEN = ("/", "/health")  #: paths without a token: the page, in which there is no data, and whether it runs
MOST_BODY = 150 << 20  #: bytes of a request
PATIENCE = 20.0  #: seconds between two pieces of what is sent or taken
REQUESTS = 256  #: that are answered at once
DEFAULT_PORTS = {"http": ":80", "https": ":443"}
IN_ALL = 300.0  #: seconds that sending a request may take

HEADERS = {
    "cache-control": "no-store",
    "content-security-policy": "default-src 'none'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    "cross-origin-opener-policy": "same-origin",
    "cross-origin-resource-policy": "same-origin",
    "permissions-policy": "camera=(self), clipboard-write=(self), geolocation=(), microphone=()",
    "referrer-policy": "no-referrer",
    "x-content-type-options": "nosniff",
    "x-frame-options": "DENY",
}
"""Of every response that has no other of that name."""

LOG = logging.getLogger("instsearch.serve")


@dataclass(frozen=True)
class Door:
    """Who may come in.

    token  what every request carries, but for those to OPEN
    hosts  names that the service goes by, each with its port; "*": any
    """

    token: str
    hosts: frozenset[str]

    def check(self, scope: Scope) -> None:
        """Raises Problem for a request that is not let in."""
        headers = scope["headers"]
        hosts = _every(headers, b"host")
        host = hosts[0].lower() if len(hosts) == 1 else ""
        if host not in self.hosts and "*" not in self.hosts:
            raise Problem(
                403, "this service does not go by that name: use the address that it printed, or --allow-host"
            )
        for origin in _every(headers, b"origin"):
            if not _is_of(origin.lower(), host):
                raise Problem(403, "requests from pages of other sites are not answered")
        sites = _every(headers, b"sec-fetch-site")
        navigating = scope["path"] == "/" and _every(headers, b"sec-fetch-mode") == ["navigate"]
        if any(site not in ("same-origin", "none") for site in sites) and not navigating:
            raise Problem(403, "requests from pages of other sites are not answered")
        if scope["path"] in OPEN and scope["method"] in ("GET", "HEAD"):
            return
        given = _every(headers, b"authorization")
        scheme, _, token = given[0].partition(" ") if len(given) == 1 else ("", "", "")
        same = hmac.compare_digest(token.strip().encode("utf-8", "replace"), self.token.encode())
        if scheme.lower() != "bearer" or not same:
            raise Problem(
                401,
                "the token is missing or another one: open the link that the service printed",
                {"WWW-Authenticate": "Bearer"},
            )
        lengths = _every(headers, b"content-length")
        most = LARGER.get(scope["path"], MOST_BODY)
        if lengths and (len(lengths) > 1 or not lengths[0].isdecimal() or int(lengths[0][:20]) > most):
            raise Problem(413, f"a request has at most {most >> 20:,} MB")


def _every(headers: list[tuple[bytes, bytes]], name: bytes) -> list[str]:
    return [value.decode("latin-1") for key, value in headers if key == name]


def _is_of(origin: str, host: str) -> bool:
    """Whether an origin is a page of a host; browsers leave out the port that is their scheme's."""
    scheme, _, name = origin.partition("://")
    port = DEFAULT_PORTS.get(scheme)
    return port is not None and name.removesuffix(port) == host.removesuffix(port)


class Guard:
    """The middleware: what is not let in, comes too slowly or is too much gets a problem; no error gets further."""

    def __init__(self, app: ASGIApp, door: Door, measures: Measures) -> None:
        self.app, self.door, self.measures, self.busy = app, door, measures, 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            if scope["type"] == "websocket":
                await send({"type": "websocket.close", "code": 1008})
            else:
                await self.app(scope, receive, send)
            return
        begun, complete, gone, length, deadline = False, False, False, 0, time.monotonic() + IN_ALL
        most = LARGER.get(scope["path"], MOST_BODY)

        async def bounded_receive() -> Message:
            nonlocal length, complete
            with anyio.move_on_after(PATIENCE if not complete else None) as waiting:
                message = await receive()
            if waiting.cancelled_caught or time.monotonic() > deadline:
                raise Problem(408, "the request came too slowly", {"Connection": "close"})
            length += len(message.get("body", b""))
            complete = message["type"] == "http.disconnect" or not message.get("more_body", False)
            if length > most:
                raise Problem(413, f"a request has at most {most >> 20:,} MB", {"Connection": "close"})
            return message

        async def bounded_send(message: Message) -> None:
            nonlocal begun, gone
            if message["type"] == "http.response.start":
                begun = True
                self.measures.count(scope["method"], scope["path"], message["status"])
                there = {key.lower() for key, _ in message["headers"]}
                more = [(k.encode(), v.encode()) for k, v in HEADERS.items() if k.encode() not in there]
                message = {**message, "headers": [*message["headers"], *more]}
            with anyio.move_on_after(PATIENCE) as waiting:
                await send(message)
            if waiting.cancelled_caught:
                gone = True
                raise ClientDisconnect

        try:
            self.door.check(scope)
            with self._place():
                await self.app(scope, bounded_receive, bounded_send)
        except Exception as error:
            if gone or isinstance(error, ClientDisconnect):
                return
            problem = problem_of(error)
            said = " ".join(printable(problem.detail).split())
            LOG.log(
                logging.ERROR if problem.status >= 500 else logging.INFO,
                "%s %s: %s %s", scope["method"], printable(scope["path"][:200]), problem.status, said[:500],
                exc_info=error if problem.status == 500 else None,
            )  # fmt: skip
            if not begun:
                with contextlib.suppress(ClientDisconnect):
                    await respond(bounded_send, problem)

    @contextlib.contextmanager
    def _place(self) -> Iterator[None]:
        """One of so many. Raises Problem where all are taken."""
        if self.busy >= REQUESTS:
            raise Problem(503, "too many requests at once: ask again in a moment", {"Retry-After": "2"})
        self.busy += 1
        try:
            yield
        finally:
            self.busy -= 1


async def respond(send: Any, problem: Problem) -> None:
    """Send a problem."""
    body = json.dumps(problem.body).encode()
    headers = {"content-type": MEDIA_TYPE, "content-length": str(len(body)), **problem.headers}
    pairs = [(name.lower().encode(), value.encode("latin-1", "replace")) for name, value in headers.items()]
    await send({"type": "http.response.start", "status": problem.status, "headers": pairs})
    await send({"type": "http.response.body", "body": body})

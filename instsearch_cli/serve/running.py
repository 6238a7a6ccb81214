"""Running the service: a port, a link with a token, the browser; Ctrl-C ends it at once."""

from __future__ import annotations

import contextlib
import logging
import secrets
import socket
import threading
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import h11
import uvicorn
from uvicorn.protocols.http.h11_impl import H11Protocol

from instsearch_cli.engine.memory import reuse_memory
from instsearch_cli.errors import InstsearchError, UsageError
from instsearch_cli.outside.text import shown
from instsearch_cli.serve.app import application
from instsearch_cli.serve.guard import DEFAULT_PORTS, Door

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from instsearch_cli.serve.service import Service

LOCAL = ("127.0.0.1", "localhost", "::1")
CONNECTIONS = 256  #: on which nothing is asked; those that waited longest give way to others
PATIENCE = 20.0  #: seconds that the head of a request may take
SHORTEST = 16  #: characters of a token of one's own
ENDING = 0.7  #: seconds that open connections are given


class Patient(H11Protocol):
    """HTTP/1.1 that closes connections on which the head of a request does not come, or too many ask nothing."""

    def connection_made(self, transport: Any) -> None:
        super().connection_made(transport)
        self._since = self.loop.time()
        self._waiting: Any = self.loop.call_later(PATIENCE, self._close)
        if len(self.connections) > CONNECTIONS:
            idle = [each for each in self.connections if isinstance(each, Patient) and each.idle]
            if len(idle) > CONNECTIONS:
                min(idle, key=lambda each: each._since).transport.close()

    @property
    def idle(self) -> bool:
        """Whether it is open and no request of it is being answered."""
        return not self.transport.is_closing() and (self.cycle is None or self.cycle.response_complete)

    def data_received(self, data: bytes) -> None:
        self._since = self.loop.time()
        super().data_received(data)
        if self.conn.their_state is not h11.IDLE:
            self._waiting.cancel()
        elif self._waiting.cancelled():
            self._waiting = self.loop.call_later(PATIENCE, self._close)

    def connection_lost(self, exc: Exception | None) -> None:
        self._waiting.cancel()
        super().connection_lost(exc)

    def _close(self) -> None:
        if self.conn.their_state is h11.IDLE:
            self.transport.close()


@dataclass(frozen=True)
class Place:
    """Where the service is.

    host, port  what it is bound to; port 0: any that is free
    token       what requests carry; "": one that is drawn
    names       hosts, with or without port, that it goes by beside its own
    """

    host: str = "127.0.0.1"
    port: int = 0
    token: str = ""
    names: Sequence[str] = ()

    def __post_init__(self) -> None:
        if type(self.port) is not int or not 0 <= self.port <= 65535:
            raise UsageError(f"port is a whole number from 0 to 65,535, not {shown(self.port)}")
        for name, value in (("host", self.host), ("token", self.token)):
            if not isinstance(value, str):
                raise UsageError(f"{name} is text, not {shown(value)}")
        if isinstance(self.names, str) or not all(isinstance(name, str) for name in self.names):
            raise UsageError(f"allow_hosts are a list of names, not {shown(self.names)}")

    @property
    def local(self) -> bool:
        """Whether only this machine gets there."""
        return self.host in LOCAL


class Running:
    """A service that answers, in a thread of its own."""

    def __init__(self, service: Service, place: Place) -> None:
        if not place.local and len(place.token) < SHORTEST:
            raise UsageError(
                f"with --host {place.host} others get there: give a token of your own, of {SHORTEST} characters or "
                "more, with --token or INSTSEARCH_TOKEN"
            )
        if any(not c.isascii() or not c.isprintable() or c == " " for c in place.token):
            raise UsageError("a token is of printable ASCII characters without spaces")
        self.service, self.place = service, place
        self.socket = bound(place)
        self.host, self.port = place.host, self.socket.getsockname()[1]
        self.token = place.token or secrets.token_urlsafe(24)
        config = uvicorn.Config(
            application(service, Door(self.token, names_of(place, self.port))),
            http=Patient,
            ws="none",
            lifespan="off",
            log_config=None,
            access_log=False,
            server_header=False,
            proxy_headers=False,
            timeout_keep_alive=30,
            timeout_graceful_shutdown=1,
            h11_max_incomplete_event_size=65536,
        )
        logging.getLogger("uvicorn").setLevel(logging.ERROR)
        reuse_memory()
        self.server = uvicorn.Server(config)
        # its threads are daemons as it is: a question that is being answered holds nothing up at the end
        self.thread = threading.Thread(target=self.server.run, args=([self.socket],), daemon=True)

    @property
    def base(self) -> str:
        """What all addresses begin with."""
        name = "localhost" if self.host in ("0.0.0.0", "::") else self.host
        return f"http://[{name}]:{self.port}" if ":" in name else f"http://{name}:{self.port}"

    @property
    def link(self) -> str:
        """The page's address; the token is in the part that browsers do not send."""
        return f"{self.base}/#token={self.token}"

    def start(self) -> None:
        """Answer from now on. Raises InstsearchError where that does not begin."""
        self.thread.start()
        while not self.server.started:
            if not self.thread.is_alive():
                raise InstsearchError(f"the service did not start on {self.host}:{self.port}")
            time.sleep(0.005)

    def wait(self) -> None:
        """Until what it was for is done, for ever where that is to answer."""
        while self.thread.is_alive() and not self.service.done.wait(0.2):
            pass

    def stop(self) -> None:
        """No more answers; returns within a second."""
        logging.getLogger("uvicorn").setLevel(logging.CRITICAL + 1)  # of what is cut off
        self.server.should_exit = True
        self.thread.join(ENDING / 2)
        self.server.force_exit = True
        self.thread.join(ENDING / 2)
        self.socket.close()


def names_of(place: Place, port: int) -> frozenset[str]:
    """Hosts that a service goes by, each with its port, and without where that is a scheme's."""
    hosts = {*LOCAL, place.host} if place.local else {place.host, *LOCAL, socket.gethostname()}
    found = {f"[{name}]:{port}" if ":" in name else f"{name}:{port}" for name in hosts}
    for name in place.names:
        found |= {name, f"{name}:{port}"}
    found |= {name.removesuffix(default) for name in found for default in DEFAULT_PORTS.values()}
    return frozenset(name.lower() for name in found)


@contextlib.contextmanager
def running(service: Service, place: Place) -> Iterator[Running]:
    """A service that answers as long as the context lasts."""
    with contextlib.closing(service):
        there = Running(service, place)
        try:
            there.start()
            yield there
        finally:
            there.stop()


def bound(place: Place) -> socket.socket:
    """A socket at the place. Raises InstsearchError where there is something else, UsageError for no address."""
    try:
        family, kind, _, _, address = socket.getaddrinfo(
            place.host, place.port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
    except (OSError, UnicodeError) as error:
        raise UsageError(f"--host {place.host}: {error}") from error
    there = socket.socket(family, kind)
    try:
        there.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        there.bind(address)
    except OSError as error:
        there.close()
        why = (
            "the port is in use: another --port, or 0 for any that is free"
            if error.errno == 98
            else error.strerror
        )
        raise InstsearchError(f"cannot listen on {place.host}:{place.port}: {why}") from error
    return there

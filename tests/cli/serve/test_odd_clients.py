"""Clients that are slow, go away, take nothing or speak no HTTP hold nothing up."""

from __future__ import annotations

import contextlib
import json
import re
import socket
import time
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import anyio
import httpx
import pytest

from instsearch_cli.serve import guard, measures, running
from instsearch_cli.serve.app import application
from instsearch_cli.serve.running import Running
from served_scenes import BOX, TOKEN, refused

BEARER = {"authorization": f"Bearer {TOKEN}"}
PATHS = ("/v1/indexes", "/v1/indexes/0/images", "/v1/indexes/0/images/0", "/metrics", "/v1/openapi.json")


def talk(served: Running, *pieces: bytes, wait: float = 0.0) -> bytes:
    """What comes back when some bytes are sent, with a pause after each."""
    with socket.create_connection(("127.0.0.1", served.port), timeout=3) as line:
        for piece in pieces:
            line.sendall(piece)
            time.sleep(wait)
        back = b""
        with contextlib.suppress(TimeoutError):  # it waits for more
            while more := line.recv(65536):
                back += more
        return back


def test_who_sends_slowly_holds_nothing_up(
    served: Running, web: httpx.Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(guard, "PATIENCE", 0.3)
    monkeypatch.setattr(running, "PATIENCE", 0.3)
    head = f"POST /v1/pictures HTTP/1.1\r\nHost: 127.0.0.1:{served.port}\r\nAuthorization: Bearer {TOKEN}\r\n"
    began = time.monotonic()
    assert b"408" in talk(served, head.encode() + b"Content-Length: 1000\r\n\r\nabc").split(b"\r\n")[0]
    assert talk(served, b"GET / HTTP/1.1\r\nHost: 127") == b""  # closed
    assert talk(served) == b""
    assert time.monotonic() - began < 5
    lines = [socket.create_connection(("127.0.0.1", served.port)) for _ in range(50)]
    try:
        assert web.get("/v1/indexes").status_code == 200
    finally:
        for line in lines:
            line.close()


def test_who_asks_nothing_gives_way(
    served: Running, web: httpx.Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(running, "CONNECTIONS", 8)
    with contextlib.ExitStack() as stack:
        lines = [
            stack.enter_context(socket.create_connection(("127.0.0.1", served.port), 10)) for _ in range(20)
        ]
        assert lines[0].recv(1) == b""  # closed at once
        assert web.get("/v1/indexes").status_code == 200
        lines[-1].sendall(f"GET /health HTTP/1.1\r\nHost: 127.0.0.1:{served.port}\r\n\r\n".encode())
        assert lines[-1].recv(12) == b"HTTP/1.1 200"


def test_too_many_requests_are_a_problem_like_any_other(
    web: httpx.Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(guard, "REQUESTS", 0)
    assert "again" in refused(web.get("/v1/indexes"), 503)


def test_who_goes_away_is_not_waited_for(served: Running, web: httpx.Client, picture: str) -> None:
    body = json.dumps({"views": [{"picture": {"upload": picture}, "box": list(BOX)}]}).encode()
    head = (
        f"POST /v1/query HTTP/1.1\r\nHost: 127.0.0.1:{served.port}\r\nAuthorization: Bearer {TOKEN}\r\n"
        f"Content-Length: {len(body)}\r\nAccept: application/x-ndjson\r\n\r\n"
    )
    for _ in range(30):
        with socket.create_connection(("127.0.0.1", served.port)) as line:
            line.sendall(head.encode() + body)
    began = time.monotonic()
    assert web.post("/v1/query", content=body).json()["found"]
    assert time.monotonic() - began < 10


def run(*work: Any) -> None:
    """What is asynchronous, in a thread of its own: a browser may have this one's loop."""
    with ThreadPoolExecutor(1) as pool:
        pool.submit(anyio.run, *work).result()


def test_who_goes_away_while_sending_is_no_bug(served: Running, caplog: pytest.LogCaptureFixture) -> None:
    app = application(served.service, guard.Door(TOKEN, frozenset({"here"})))
    pieces = [{"type": "http.request", "body": b"abc", "more_body": True}, {"type": "http.disconnect"}]
    headers = [(b"host", b"here"), (b"authorization", f"Bearer {TOKEN}".encode())]
    path = "/v1/pictures"
    scope = {"type": "http", "method": "POST", "path": path, "headers": headers, "query_string": b""}

    async def receive() -> Any:
        return pieces.pop(0)

    async def send(message: Any) -> None:
        raise AssertionError(message)

    with caplog.at_level("INFO", "instsearch.serve"):
        run(app, scope, receive, send)
    assert not pieces
    assert not caplog.records


@pytest.mark.parametrize("path", ["/v1/indexes/0/images/0/file", "/v1/query", "/v1/nothing"])
def test_who_takes_nothing_is_no_bug(
    served: Running,
    picture: str,
    path: str,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(guard, "PATIENCE", 0.05)
    app = application(served.service, guard.Door(TOKEN, frozenset({"here"})))
    body = json.dumps({"views": [{"picture": {"upload": picture}}]}).encode()
    method = "POST" if path == "/v1/query" else "GET"
    headers = [(b"host", b"here"), (b"authorization", f"Bearer {TOKEN}".encode())]
    headers.append((b"accept", b"application/x-ndjson"))
    scope = {"type": "http", "method": method, "path": path, "headers": headers, "query_string": b""}
    pieces = [{"type": "http.request", "body": body}]

    async def receive() -> Any:
        return pieces.pop() if pieces else await anyio.sleep_forever()

    async def send(message: Any) -> None:
        await anyio.sleep_forever()

    with caplog.at_level("INFO", "instsearch.serve"):
        run(app, scope, receive, send)
    assert "ERROR" not in {record.levelname for record in caplog.records}


def test_odd_methods_are_counted_as_one(address: str, web: httpx.Client) -> None:
    for method in ("ODD", "ODDER", "G3T", "TRACE"):
        refused(httpx.request(method, f"{address}/v1/indexes"), 401)
        refused(web.request(method, "/v1/indexes"), 405)
    counted = set(re.findall(r'instsearch_requests_total{method="(.*?)"', web.get("/metrics").text))
    assert "other" in counted
    assert counted <= {"other", *measures.METHODS}


@pytest.mark.parametrize(
    "request_line",
    [
        b"\x00\x01\x02\r\n\r\n",
        b"GET\r\n\r\n",
        b"GET / HTTP/9.9\r\n\r\n",
        b"GET / HTTP/1.1\r\n" + b"a: b\r\n" * 20_000,
    ],
)
def test_what_is_no_http(served: Running, web: httpx.Client, request_line: bytes) -> None:
    try:
        back = talk(served, request_line)
    except ConnectionError:
        back = b""
    assert back[:12] in (b"", b"HTTP/1.1 400", b"HTTP/1.1 403")
    assert web.get("/health").json() == {"status": "ok"}

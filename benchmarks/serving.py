"""What the service takes: time to the first hits and to the answer, people at once, memory, and what is let in.

python benchmarks/serving.py --index INDEX --queries FOLDER [--questions 50] [--people 8] [--seconds 60] [--json]

FOLDER holds pictures to ask with. Each question is a box in one of them, asked as the page asks: the picture is handed
in before, the answer comes line by line. Then so many people ask for so long, and the process's memory is read at the
beginning and at the end; then requests with forged hosts, origins, tokens, paths and sizes are sent, none of which may
be answered. Prints a table. Boxes are drawn by --seed.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import socket
import statistics
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import httpx

UP = ".."
SUFFIXES = {".jpg", ".jpeg", ".png"}


class Service:
    """`instsearch serve` as a process of its own."""

    def __init__(self, index: Path) -> None:
        command = [sys.executable, "-m", "instsearch_cli", "serve", "--index", str(index), "--no-open"]
        self.process = subprocess.Popen(
            [*command, "--port", "0", "--json"], stdout=subprocess.PIPE, text=True, stderr=subprocess.DEVNULL
        )
        assert self.process.stdout is not None
        self.address = json.loads(self.process.stdout.readline())
        self.base = f"http://127.0.0.1:{self.address['port']}"
        self.headers = {"authorization": f"Bearer {self.address['token']}"}

    def client(self) -> httpx.Client:
        return httpx.Client(base_url=self.base, headers=self.headers, timeout=60)

    def megabytes(self) -> float:
        """Resident memory."""
        pages = int(Path(f"/proc/{self.process.pid}/statm").read_text().split()[1])
        return pages * os.sysconf("SC_PAGE_SIZE") / 1e6


def asked_with(client: httpx.Client, files: list[Path]) -> list[dict[str, Any]]:
    """Pictures that are handed in."""
    return [
        client.post("/v1/pictures", params={"name": f.name}, content=f.read_bytes()).json() for f in files
    ]


def a_question(picture: dict[str, Any], chance: random.Random) -> dict[str, Any]:
    """A box of a third to nine tenths of the sides of a picture."""
    w, h = (side * chance.uniform(0.35, 0.9) for side in picture["size"])
    x, y = chance.uniform(0, picture["size"][0] - w), chance.uniform(0, picture["size"][1] - h)
    return {
        "views": [{"picture": {"upload": picture["upload"]}, "box": [x, y, w, h]}],
        "k": 40,
        "min_score": 0,
    }


def ask(client: httpx.Client, question: dict[str, Any]) -> tuple[float, float]:
    """Seconds to the first boxed hits, and to the answer. A question of no keypoints is none: (nan, nan)."""
    began, first = time.perf_counter(), 0.0
    with client.stream(
        "POST", "/v1/query", json=question, headers={"accept": "application/x-ndjson"}
    ) as answer:
        if answer.status_code == 422:
            return float("nan"), float("nan")
        answer.raise_for_status()
        for line in answer.iter_lines():
            table = json.loads(line)
            assert "problem" not in table, table
            first = first or time.perf_counter() - began
    assert table["final"]
    return first, time.perf_counter() - began


def p95(times: list[float]) -> float:
    """Of sorted times."""
    return times[int(0.95 * (len(times) - 1))]


def alone(service: Service, files: list[Path], n: int, chance: random.Random) -> dict[str, Any]:
    """One person."""
    with service.client() as client:
        pictures = asked_with(client, files)
        for picture in pictures:
            ask(client, a_question(picture, chance))  # as the page does when a picture is opened
        times = [ask(client, a_question(chance.choice(pictures), chance)) for _ in range(n)]
    firsts, lasts = (sorted(t for t in column if t == t) for column in zip(*times, strict=True))
    return {
        "questions": len(firsts),
        "first median ms": 1000 * statistics.median(firsts),
        "first p95 ms": 1000 * p95(firsts),
        "answer median ms": 1000 * statistics.median(lasts),
        "answer p95 ms": 1000 * p95(lasts),
    }


def together(service: Service, files: list[Path], people: int, seconds: float, seed: int) -> dict[str, Any]:
    """Several people who ask one question after the other."""
    times: list[tuple[float, float]] = []
    errors: list[str] = []
    until = time.monotonic() + seconds

    def person(i: int) -> None:
        chance = random.Random(seed + i)
        try:
            with service.client() as client:
                pictures = asked_with(client, files)
                while time.monotonic() < until:
                    times.append(ask(client, a_question(chance.choice(pictures), chance)))
        except Exception as error:
            errors.append(f"{type(error).__name__}: {error}")

    before = service.megabytes()
    crowd = [threading.Thread(target=person, args=(i,)) for i in range(people)]
    for each in crowd:
        each.start()
    time.sleep(seconds / 2)
    middle = service.megabytes()
    for each in crowd:
        each.join()
    firsts, lasts = (sorted(t for t in column if t == t) for column in zip(*times, strict=True))
    return {
        "people": people,
        "questions": len(lasts),
        "errors": errors,
        "first median s": statistics.median(firsts),
        "first p95 s": p95(firsts),
        "median s": statistics.median(lasts),
        "p95 s": p95(lasts),
        "questions/s": len(lasts) / seconds,
        "MB before, middle, end": [round(before), round(middle), round(service.megabytes())],
    }


def forged(service: Service, n: int, chance: random.Random) -> dict[str, Any]:
    """Requests of which none may be answered."""
    port, token = service.address["port"], service.address["token"]
    right = f"Bearer {token}"
    paths = [
        "/v1/indexes",
        "/v1/indexes/0/images/0",
        "/v1/indexes/0/images/0/file",
        "/metrics",
        "/v1/query",
        "/v1/box",
    ]
    hosts = [
        "evil.example",
        f"evil.example:{port}",
        "127.0.0.1",
        f"127.0.0.1.evil.example:{port}",
        "0.0.0.0",
        "::1",
    ]
    origins = [
        "http://evil.example",
        "null",
        f"http://127.0.0.1:{port + 1}",
        "file://",
        f"http://localhost:{port}.evil",
    ]
    tokens = [
        "",
        token,
        f"Bearer {token[:-1]}",
        f"Bearer {token}a",
        "Bearer null",
        f"Basic {token}",
        "Bearer \x00",
    ]
    climbing = [
        f"/{UP}/{UP}/etc/passwd",
        "/v1/indexes/0/images/..%2f..%2fetc%2fpasswd",
        "/v1/pictures/..%2f..%2fetc%2fpasswd",
    ]
    climbing += [
        "/v1/indexes/-1/images",
        "/v1/indexes/0/images/999999/file",
        "/v1/pictures/%00",
        "/etc/passwd",
    ]
    let_in = []
    for i in range(n):
        path, method = (
            chance.choice(paths),
            chance.choice(["GET", "POST", "PUT", "DELETE", "OPTIONS", "TRACE"]),
        )
        headers, body = {"Host": f"127.0.0.1:{port}", "Authorization": right}, b""
        match i % 6:
            case 0:
                headers["Host"] = chance.choice(hosts)
            case 1:
                headers["Origin"] = chance.choice(origins)
            case 2:
                headers["Authorization"] = chance.choice(tokens)
            case 3:
                path, method = chance.choice(climbing), "GET"
            case 4:
                path, method = "/v1/pictures", "POST"
                headers["Content-Length"] = chance.choice(["99999999999", "-1", "1e9", "9" * 40])
            case 5:
                headers["Sec-Fetch-Site"] = "cross-site"
        lines = [f"{method} {path} HTTP/1.1", *(f"{k}: {v}" for k, v in headers.items()), "Connection: close"]
        status = _status("\r\n".join([*lines, "", ""]).encode() + body, port)
        if 200 <= status < 400:
            let_in.append(lines)
    slow = [socket.create_connection(("127.0.0.1", port)) for _ in range(100)]
    for line in slow:
        line.sendall(b"POST /v1/query HTTP/1.1\r\nHost")
    with service.client() as client:
        began = time.perf_counter()
        alive = client.get("/v1/indexes").status_code == 200
        seconds = time.perf_counter() - began
    for line in slow:
        line.close()
    return {"tried": n, "let in": len(let_in), "alive, with 100 slow clients": alive, "seconds": seconds}


def _status(request: bytes, port: int) -> int:
    """The status of what comes back; 0: the line was closed."""
    try:
        with socket.create_connection(("127.0.0.1", port), timeout=5) as line:
            line.sendall(request)
            head = line.recv(200).split(b" ")
            return int(head[1]) if len(head) > 1 else 0
    except OSError:
        return 0


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--index", type=Path, required=True)
    parser.add_argument("--queries", type=Path, required=True)
    parser.add_argument("--questions", type=int, default=50)
    parser.add_argument("--people", type=int, default=8)
    parser.add_argument("--seconds", type=float, default=60)
    parser.add_argument("--forged", type=int, default=240)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    files = sorted(f for f in options.queries.iterdir() if f.suffix.lower() in SUFFIXES)[:20]
    service = Service(options.index)
    try:
        table = {
            "alone": alone(service, files, options.questions, random.Random(options.seed)),
            "together": together(service, files[:5], options.people, options.seconds, options.seed),
            "forged": forged(service, options.forged, random.Random(options.seed)),
        }
    finally:
        service.process.terminate()
        service.process.wait()
    if options.json:
        print(json.dumps(table))
        return
    for what, row in table.items():
        print(what)
        for name, value in row.items():
            print(f"  {name:<32}{value:.3g}" if isinstance(value, float) else f"  {name:<32}{value}")


if __name__ == "__main__":
    main()

"""A small collection that is served: twelve scenes, a thing in four of them, and a picture to ask with."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import httpx
import PIL.Image
import pytest

import instsearch
from instsearch_cli.serve.running import Place, Running, running
from instsearch_cli.serve.service import Service
from served_scenes import TOKEN, scene


@pytest.fixture(scope="session")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """``query.png``, the folders ``a`` and ``b`` with six scenes each, and their indexes ``of-a`` and ``of-b``."""
    folder = tmp_path_factory.mktemp("served")
    for i in range(13):
        path = folder / ("query.png" if i == 12 else f"{'ab'[i % 2]}/{i}.png")
        path.parent.mkdir(exist_ok=True)
        PIL.Image.fromarray(scene(i)).save(path)
    for name in "ab":
        instsearch.create(folder / f"of-{name}").index(folder / name, preset="sift")
    return folder


@pytest.fixture(scope="session")
def served(place: Path) -> Iterator[Running]:
    service = Service([place / "of-a", place / "of-b"], "cpu")
    with running(service, Place(token=TOKEN)) as there:
        yield there


@pytest.fixture(scope="session")
def address(served: Running) -> str:
    return f"http://127.0.0.1:{served.port}"


@pytest.fixture(scope="session")
def web(address: str) -> Iterator[httpx.Client]:
    """A client that has the token."""
    with httpx.Client(base_url=address, headers={"authorization": f"Bearer {TOKEN}"}, timeout=60) as client:
        yield client


@pytest.fixture(scope="session")
def picture(place: Path, web: httpx.Client) -> str:
    """The id of the query's picture, handed in."""
    answer = web.post(
        "/v1/pictures", params={"name": "query.png"}, content=(place / "query.png").read_bytes()
    )
    assert answer.status_code == 201
    return str(answer.json()["upload"])

"""A service goes on: indexes that change, go and come back; ports in use; a person who ends it."""

from __future__ import annotations

import base64
import contextlib
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import PIL.Image
import pytest

import instsearch
from instsearch_cli.errors import InstsearchError
from instsearch_cli.images import Photograph
from instsearch_cli.serve import browsing
from instsearch_cli.serve import uploads as uploading
from instsearch_cli.serve.problems import Problem
from instsearch_cli.serve.questions import question
from instsearch_cli.serve.running import Place, Running, running
from instsearch_cli.serve.service import Service
from instsearch_cli.serve.uploads import Uploads
from served_scenes import BOX, TOKEN, scene

Cli = Callable[..., Any]
NAMES = ("query.png", "a/0.png", "a/2.png")
HEADERS = {"authorization": f"Bearer {TOKEN}"}


def ask(there: Running, place: Path) -> httpx.Response:
    return httpx.post(
        f"http://127.0.0.1:{there.port}/v1/query",
        headers=HEADERS,
        files={"picture": ("query.png", (place / "query.png").read_bytes())},
        data={"box": ",".join(map(str, BOX))},
        timeout=60,
    )


def found(answer: httpx.Response) -> set[str]:
    return {Path(hit["path"]).name for hit in answer.json()["hits"] if hit["score"] >= 0.5}


def test_an_index_that_grows_goes_and_comes_back(place: Path, tmp_path: Path) -> None:
    shutil.copytree(place / "of-a", tmp_path / "index")
    with running(Service([tmp_path / "index"], "cpu"), Place(token=TOKEN)) as there:
        assert found(ask(there, place)) == {"0.png", "6.png"}
        PIL.Image.fromarray(scene(12)).save(tmp_path / "new.png")
        instsearch.open(tmp_path / "index").add(tmp_path / "new.png")  # as another process does
        assert found(ask(there, place)) == {"0.png", "6.png", "new.png"}
        instsearch.open(tmp_path / "index").remove(tmp_path / "new.png")
        assert found(ask(there, place)) == {"0.png", "6.png"}

        (tmp_path / "index").rename(tmp_path / "elsewhere")
        gone = ask(there, place)
        assert (gone.status_code, "not there any more" in gone.json()["detail"]) == (410, True)
        (table,) = httpx.get(f"http://127.0.0.1:{there.port}/v1/indexes", headers=HEADERS).json()["indexes"]
        assert "not there any more" in table["problem"]
        shutil.copytree(place / "of-b", tmp_path / "index")
        assert found(ask(there, place)) == {"3.png", "9.png"}


@pytest.mark.parametrize("names", [("index",), ("index", "of-b")])
@pytest.mark.parametrize("other", ["", "of-b"])
def test_an_index_that_goes_while_it_is_asked(
    place: Path, tmp_path: Path, names: tuple[str, ...], other: str
) -> None:
    shutil.copytree(place / "of-a", tmp_path / "index")
    paths = [tmp_path / "index", place / "of-b"][: len(names)]
    with contextlib.closing(Service(paths, "cpu")) as service:
        data = base64.b64encode((place / "query.png").read_bytes()).decode()
        answers = service.answers(question({"views": [{"picture": {"data": data}, "box": list(BOX)}]}))
        assert next(answers).step
        shutil.rmtree(tmp_path / "index")
        if other:
            shutil.copytree(place / other, tmp_path / "index")
        with pytest.raises(InstsearchError, match="do it again"):
            list(answers)


def test_an_index_in_which_nothing_can_be_searched(place: Path, tmp_path: Path) -> None:
    instsearch.create(tmp_path / "index").close()
    with running(Service([tmp_path / "index"], "cpu"), Place(token=TOKEN)) as there:
        answer = ask(there, place)
        assert answer.status_code in (400, 422)
        assert "instsearch index" in answer.json()["detail"]
        (table,) = httpx.get(f"http://127.0.0.1:{there.port}/v1/indexes", headers=HEADERS).json()["indexes"]
        assert "instsearch index" in table["problem"]


def test_a_photograph_that_is_gone(place: Path, tmp_path: Path) -> None:
    shutil.copytree(place / "a", tmp_path / "a")
    instsearch.create(tmp_path / "index").index(tmp_path / "a", preset="sift")
    with (
        running(Service([tmp_path / "index"], "cpu"), Place(token=TOKEN)) as there,
        httpx.Client(base_url=there.base, headers=HEADERS, timeout=60) as web,
    ):
        rows = {each["name"]: each["row"] for each in web.get("/v1/indexes/0/images").json()["images"]}
        (tmp_path / "a" / "0.png").unlink()
        gone, other = ({"index": 0, "row": rows[name]} for name in ("0.png", "2.png"))
        body = {"question": {"views": [{"picture": other}]}, "hit": gone}
        image = f"/v1/indexes/0/images/{rows['0.png']}"
        for answer in (
            web.get(image),
            web.get(f"{image}/file"),
            web.post("/v1/query", json={"views": [{"picture": gone}]}),
            web.post("/v1/aligned", json=body),
        ):
            assert (answer.status_code, "0.png: No such file" in answer.json()["detail"]) == (410, True)
        (tmp_path / "a" / "0.png").write_text("no picture")
        for path in (image, f"{image}/file"):
            damaged = web.get(path)
            assert (damaged.status_code, damaged.json()["detail"].partition(":")[0]) == (422, "0.png")


def test_ports_hosts_and_tokens(place: Path, cli: Cli) -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        taken = cli("serve", "--index", place / "of-a", "--port", port, "--no-open", status=1)
        assert "in use" in taken.err
    assert "--token" in cli("serve", "--index", place / "of-a", "--host", "0.0.0.0", status=2).err
    assert "--host" in cli("serve", "--index", place / "of-a", "--host", "no such host", status=2).err
    assert "no index" in cli("serve", "--index", place / "nowhere", status=1).err.lower()


def test_names_behind_a_proxy(place: Path) -> None:
    service = Service([place / "of-a"], "cpu")
    with running(service, Place(token=TOKEN, names=("photos.example",))) as there:
        address = f"http://127.0.0.1:{there.port}/v1/indexes"
        for host, status in (("photos.example", 200), ("Photos.Example", 200), ("other.example", 403)):
            assert httpx.get(address, headers={**HEADERS, "host": host}).status_code == status
        origin = {**HEADERS, "host": "photos.example", "origin": "https://photos.example"}
        assert httpx.get(address, headers=origin).status_code == 200


def test_the_packages_it_needs_are_named(monkeypatch: pytest.MonkeyPatch, cli: Cli, place: Path) -> None:
    monkeypatch.setattr(browsing, "PACKAGES", ("starlette", "no_such_package"))
    said = cli("serve", "--index", place / "of-a", status=1).err
    assert "no_such_package" in said
    assert "instsearch[serve]" in said


@contextlib.contextmanager
def start(*words: object, **environment: str) -> Iterator[subprocess.Popen[str]]:
    command = [sys.executable, "-m", "instsearch_cli", *map(str, words)]
    pipe = subprocess.PIPE
    with subprocess.Popen(
        command, env=os.environ | environment, stdout=pipe, stderr=pipe, text=True
    ) as process:
        try:
            yield process
        finally:
            process.kill()


def test_ctrl_c_ends_it_within_a_second(place: Path) -> None:
    with start("serve", "--index", place / "of-a", "--port", "0", "--no-open", "--json") as process:
        address = json.loads(process.stdout.readline())
        headers = {"authorization": f"Bearer {address['token']}"}
        base = f"http://127.0.0.1:{address['port']}"
        part = {"picture": {"index": 0, "row": 0}, "box": None}
        body = {"question": {"views": [part]}, "questions": [{"views": [part]}] * 300}
        busy = threading.Thread(target=_batch, args=(base, headers, {"questions": body["questions"]}))
        busy.start()
        time.sleep(0.5)
        began = time.monotonic()
        process.send_signal(signal.SIGINT)
        assert process.wait(timeout=10) in (0, 130, -signal.SIGINT)
        assert time.monotonic() - began < 2.5  # a second, on a machine that has nothing else to do
        busy.join(10)
        said = process.stderr.read()
        assert "Traceback" not in said
        assert said.splitlines()[-1].endswith("stopped")


def _batch(base: str, headers: dict[str, str], body: dict[str, Any]) -> None:
    with contextlib.suppress(httpx.HTTPError):  # as it ends
        httpx.post(f"{base}/v1/batch", headers=headers, json=body, timeout=60)


def test_a_box_is_drawn_and_printed(place: Path) -> None:
    with start("box", place / "query.png", "--no-open") as process:
        link = process.stderr.readline().split()[-1]
        base, _, token = link.partition("/#token=")
        headers = {"authorization": f"Bearer {token}"}
        task = httpx.get(f"{base}/v1/indexes", headers=headers).json()["task"]
        assert (task["kind"], task["picture"]["name"], task["picture"]["size"]) == (
            "box",
            "query.png",
            [240, 180],
        )
        assert httpx.post(f"{base}/v1/box", headers=headers, json={"boxes": []}).status_code == 400
        for wrong in ([0, 0, -5, 3], [0, 0, 5, 0], None):
            body = {"boxes": [[1, 2, 3, 4], wrong]}
            assert httpx.post(f"{base}/v1/box", headers=headers, json=body).status_code == 400
        boxes = {"boxes": [[30, 20, 100, 100], [1.4, 2, 3, 4]]}
        assert httpx.post(f"{base}/v1/box", headers=headers, json=boxes).status_code == 204
        out, _ = process.communicate(timeout=20)
    assert (process.returncode, out) == (0, "30,20,100,100\n1,2,3,4\n")


def test_over_ssh_it_says_how_to_get_there(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SSH_CONNECTION", "10.0.0.1 5 10.0.0.2 22")
    monkeypatch.delenv("DISPLAY", raising=False)
    assert browsing.remote()
    assert browsing.forwarding(7878).startswith("ssh -L 7878:localhost:7878 ")


def test_uploads_are_bounded_and_the_oldest_go(place: Path) -> None:
    uploads = Uploads(pictures=2, in_all=10**7)
    data = [(place / name).read_bytes() for name in NAMES]
    first, second = (uploads.put(each, "x.png") for each in data[:2])
    assert uploads.put(data[0], "x.png") is first
    third = uploads.put(data[2], "../../x.png")
    assert third.name == "x.png"
    assert [each.path.exists() for each in (first, second, third)] == [True, True, True]
    path, id = second.path, second.id
    del second  # a question that used it is answered
    assert not path.exists()
    with pytest.raises(Exception, match="hand it in again"):
        uploads.get(id)
    folder = third.path.parent
    assert oct(folder.stat().st_mode)[-3:] == "700"
    uploads.close()
    assert not folder.exists()
    small = Uploads(in_all=len(data[0]) + 10)
    small.put(data[0], "a.png")
    small.put(data[1], "b.png")
    assert len(small) == 1
    small.close()


def test_the_same_picture_from_several_at_once_is_one(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    data, uploads = (place / "query.png").read_bytes(), Uploads()
    others = []

    def read(path: Path, name: str) -> Photograph:
        monkeypatch.undo()
        others.append(uploads.put(data, name))  # while the first is read
        return Photograph(path, name)

    monkeypatch.setattr(uploading, "Photograph", read)
    first = uploads.put(data, "x.png")
    assert others == [first]
    assert others[0] is first
    assert [path.read_bytes() for path in first.path.parent.iterdir()] == [data]
    with pytest.raises(Problem, match=r"x\.png"):
        uploads.put(data[:200], "x.png")
    assert list(first.path.parent.iterdir()) == [first.path]
    uploads.close()


def test_what_a_question_uses_stays_until_it_is_answered(place: Path) -> None:
    service = Service([place / "of-a"], "cpu")
    service.uploads.pictures = 1
    pictures = [{"data": base64.b64encode((place / name).read_bytes()).decode()} for name in NAMES]
    views = [{"picture": picture, "box": list(BOX)} for picture in pictures]
    given = question({"views": views})
    for answer in (service.answer(given), *service.answers(given)):
        assert len(answer.views) == 3
    assert json.loads(service.session(given, {}))["views"][0]["picture"] == {
        "name": "the picture",
        **pictures[0],
    }
    held = service.held(given)
    del answer
    folder = held.views[0][0].held.path.parent
    assert len(list(folder.iterdir())) == 3
    del held
    assert len(list(folder.iterdir())) == 1
    service.close()

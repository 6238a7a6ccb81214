"""Names as archives have them: bytes that are no UTF-8, a dash first; and halves of characters in a question."""

from __future__ import annotations

import json
import os
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import PIL.Image
import pytest

import instsearch
from instsearch_cli.serve.running import Place, running
from instsearch_cli.serve.service import Service
from served_scenes import BOX, TOKEN, scene

ODD = os.fsdecode(b"\xff\xfe caf\xe9.png")


@pytest.fixture(scope="module")
def odd(tmp_path_factory: pytest.TempPathFactory) -> Iterator[httpx.Client]:
    """A client of an index of two photographs, both of the thing, one with such a name."""
    folder = tmp_path_factory.mktemp("odd")
    for i, name in ((0, ODD), (3, "plain.png")):
        (folder / "photos").mkdir(exist_ok=True)
        PIL.Image.fromarray(scene(i)).save(folder / "photos" / name)
    instsearch.create(folder / "index").index(folder / "photos", preset="sift")
    with running(Service([folder / "index"], "cpu"), Place(token=TOKEN)) as there:
        headers = {"authorization": f"Bearer {TOKEN}"}
        with httpx.Client(base_url=f"http://127.0.0.1:{there.port}", headers=headers, timeout=60) as client:
            yield client


def rows(odd: httpx.Client) -> dict[str, int]:
    listed = odd.get("/v1/indexes/0/images")
    assert listed.status_code == 200
    return {image["name"]: image["row"] for image in json.loads(listed.content)["images"]}


def test_a_name_that_is_no_text_is_json_everywhere(odd: httpx.Client) -> None:
    assert set(rows(odd)) == {ODD, "plain.png"}
    question = {"views": [{"picture": {"index": 0, "row": rows(odd)[ODD]}, "box": None}], "k": 5}
    for accept in ("application/json", "application/x-ndjson"):
        answer = odd.post("/v1/query", json=question, headers={"accept": accept})
        last = json.loads(answer.content.decode("utf-8").splitlines()[-1])
        assert last["hits"][0]["image"] == ODD
    command = odd.post("/v1/command", json={"question": question}).json()["command"]
    assert shlex.split(command)[2].endswith(ODD)
    file = odd.get(f"/v1/indexes/0/images/{rows(odd)[ODD]}/file")
    assert file.status_code == 200
    assert r"_xff_xfe_caf_xe9.png" in file.headers["content-disposition"]


def test_a_session_with_such_a_picture_is_opened_again(odd: httpx.Client) -> None:
    question = {"views": [{"picture": {"index": 0, "row": rows(odd)[ODD]}, "box": list(BOX)}]}
    saved = odd.post("/v1/session", json={"question": question})
    opened = odd.post("/v1/session/open", content=saved.content)
    assert opened.status_code == 200
    assert opened.json()["question"]["views"] == [
        {"picture": {"index": 0, "row": rows(odd)[ODD]}, "box": list(map(float, BOX))}
    ]


@pytest.mark.parametrize("more", [{"pipeline": "\ud800"}, {"\ud83d": 1}, {"rerank": ["\udc41"]}])
def test_half_a_character_is_a_problem_like_any_other(odd: httpx.Client, more: dict[str, Any]) -> None:
    body = {"views": [{"picture": {"index": 0, "row": 0}, "box": None}], **more}
    answer = odd.post("/v1/query", content=json.dumps(body).encode("ascii"))
    assert answer.status_code == 400
    assert answer.headers["content-type"] == "application/problem+json"
    assert answer.json()["detail"].isprintable()


def test_the_command_line_has_the_very_box_and_no_flag_for_a_name(odd: httpx.Client, place: Path) -> None:
    data = (place / "query.png").read_bytes()
    upload = odd.post("/v1/pictures", params={"name": "-x.png"}, content=data).json()["upload"]
    box = [30.25, 20, 99.5, 100]
    views = [{"picture": {"upload": upload}, "box": box}]
    words = shlex.split(odd.post("/v1/command", json={"question": {"views": views}}).json()["command"])
    assert words[:5] == ["instsearch", "query", "./-x.png", "--box", "30.25,20,99.5,100"]


def test_two_pictures_in_a_form_are_refused(odd: httpx.Client, place: Path) -> None:
    data = (place / "query.png").read_bytes()
    two = [("picture", ("a.png", data)), ("picture", ("b.png", data))]
    for path in ("/v1/query", "/v1/pictures"):
        answer = odd.post(path, files=two)
        assert (answer.status_code, "one" in answer.json()["detail"]) == (400, True)
    twice = {"question": ['{"k": 1}', '{"k": 2}']}
    assert odd.post("/v1/query", files=two[:1], data=twice).status_code == 400

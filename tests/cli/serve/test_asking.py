"""What the service answers is what the library answers, whichever way it is asked."""

from __future__ import annotations

import base64
import io
import json
import re
import shlex
import tempfile
import time
import zipfile
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import PIL.Image
import pytest
from jsonschema import Draft202012Validator

import instsearch
from instsearch_cli.serve.app import Interface
from instsearch_cli.serve.running import Running
from served_scenes import BOX, scene

NDJSON = {"accept": "application/x-ndjson"}


def question(picture: str, **more: Any) -> dict[str, Any]:
    return {"views": [{"picture": {"upload": picture}, "box": list(BOX)}], "k": 5, **more}


def hits(answer: dict[str, Any]) -> list[tuple[Any, ...]]:
    return [(hit["path"], hit["score"], hit["box"], hit["index"]) for hit in answer["hits"]]


def of_library(place: Path, *names: str, **more: Any) -> list[tuple[Any, ...]]:
    indexes = [instsearch.open(place / name) for name in names or ("of-a", "of-b")]
    answer = instsearch.query(indexes, place / "query.png", BOX, 5, **more)
    return hits(instsearch.to_json(answer))


def test_a_question_is_answered_as_by_the_library(place: Path, web: httpx.Client, picture: str) -> None:
    answer = web.post("/v1/query", json=question(picture))
    assert answer.headers["content-type"] == "application/json"
    assert hits(answer.json()) == of_library(place)
    assert answer.json()["query"]["image"] == "query.png"
    names = {Path(hit["path"]).name for hit in answer.json()["hits"] if hit["score"] >= 0.5}
    assert names == {"0.png", "3.png", "6.png", "9.png"}


def test_every_way_to_give_the_picture(place: Path, web: httpx.Client, picture: str) -> None:
    data = (place / "query.png").read_bytes()
    wanted = of_library(place, "of-a")
    part = {"picture": {"data": base64.b64encode(data).decode(), "name": "query.png"}, "box": list(BOX)}
    inline = web.post("/v1/query", json={"views": [part], "indexes": [0], "k": 5})
    form = web.post(
        "/v1/query",
        files={"picture": ("query.png", data)},
        data={"box": ",".join(map(str, BOX)), "question": json.dumps({"indexes": [0], "k": 5})},
    )
    assert hits(inline.json()) == hits(form.json()) == wanted
    wrong = web.post("/v1/query", files={"picture": ("query.png", data)}, data={"k": "5"})
    assert (wrong.status_code, wrong.json()["detail"].count("no field 'k'")) == (400, 1)
    handed = web.post("/v1/pictures", files={"picture": ("query.png", data)})
    assert handed.json() == {"upload": picture, "name": "query.png", "size": [240, 180]}


def test_an_image_of_an_index_is_a_question_too(place: Path, web: httpx.Client) -> None:
    listed = web.get("/v1/indexes/0/images", params={"search": "0.png"}).json()["images"]
    row = next(image["row"] for image in listed if image["name"] == "0.png")
    part = {"picture": {"index": 0, "row": row}, "box": [0, 0, 100, 100]}
    answer = web.post("/v1/query", json={"views": [part], "indexes": [1], "k": 5}).json()
    index = instsearch.open(place / "of-b")
    assert hits(answer) == hits(instsearch.to_json(index.query(place / "a" / "0.png", (0, 0, 100, 100), 5)))


def test_views_negatives_and_choices_are_those_of_the_library(
    place: Path, web: httpx.Client, picture: str
) -> None:
    row = web.get("/v1/indexes/0/images", params={"search": "2.png"}).json()["images"][0]["row"]
    negative = {"picture": {"index": 0, "row": row}, "box": [20, 10, 90, 90]}
    without = web.post("/v1/query", json=question(picture, against=[negative], indexes=[0])).json()
    pairs = [(place / "a" / "2.png", (20, 10, 90, 90))]
    assert hits(without) == of_library(place, "of-a", against=pairs)
    assert without["query"]["against"][0]["box"] == [20, 10, 90, 90]
    plain = web.post("/v1/query", json=question(picture, rerank=["none"], indexes=[0])).json()
    assert hits(plain) == of_library(place, "of-a", rerank=["none"])
    assert not plain["probability"]
    low = web.post("/v1/query", json=question(picture, min_score=0, indexes=[0])).json()
    assert (low["line"], len(low["hits"])) == (0, 5)


def test_answers_come_line_by_line(place: Path, web: httpx.Client, picture: str) -> None:
    with web.stream("POST", "/v1/query", json=question(picture), headers=NDJSON) as answer:
        assert answer.headers["content-type"] == "application/x-ndjson"
        lines = [json.loads(line) for line in answer.iter_lines()]
    assert [line["step"] for line in lines] == ["hamming", "verified-qe", "aligned", ""]
    assert [line["final"] for line in lines] == [False, False, False, True]
    assert hits(lines[-1]) == of_library(place)
    assert not lines[0]["probability"]
    first = web.post("/v1/query", params={"steps": 1}, json=question(picture), headers=NDJSON).text
    assert hits(json.loads(first)) == hits(lines[0])


def test_a_batch_answers_in_order_and_ends_at_no_error(
    web: httpx.Client, picture: str, caplog: pytest.LogCaptureFixture
) -> None:
    wrong = {"views": [{"picture": {"upload": "gone"}, "box": None}]}
    questions = [question(picture, indexes=[0]), wrong, question(picture, indexes=[1])]
    before = answered(web)
    with caplog.at_level("INFO"):
        answer = web.post("/v1/batch", json={"questions": questions})
    first, problem, last = map(json.loads, answer.text.splitlines())
    assert Path(first["index"][0]).name == "of-a"
    assert Path(last["index"][0]).name == "of-b"
    assert problem["problem"]["status"] == 404
    assert answered(web) == before + 2
    assert not [record for record in caplog.records if record.name == "instsearch.serve"]


def answered(web: httpx.Client) -> float:
    """How many answers were timed."""
    (line,) = re.findall(r"(?m)^instsearch_answer_seconds_count (.*)$", web.get("/metrics").text)
    return float(line)


def test_several_people_at_once_each_have_their_answer(place: Path, web: httpx.Client, picture: str) -> None:
    wanted = {i: of_library(place, name) for i, name in enumerate(("of-a", "of-b"))}
    with ThreadPoolExecutor(8) as people:
        asked_for = [i % 2 for i in range(16)]
        answers = people.map(
            lambda i: web.post("/v1/query", json=question(picture, indexes=[i])).json(), asked_for
        )
        assert [hits(answer) for answer in answers] == [wanted[i] for i in asked_for]


def test_pictures_come_upright_small_and_with_a_tag(web: httpx.Client, tmp_path: Path) -> None:
    image = PIL.Image.fromarray(scene(3))
    exif = image.getexif()
    exif[0x0112] = 6  # a quarter turn
    file = io.BytesIO()
    image.save(file, "TIFF", exif=exif)
    handed = web.post("/v1/pictures", params={"name": "scan.tif"}, content=file.getvalue()).json()
    assert handed["size"] == [180, 240]
    answer = web.get(f"/v1/pictures/{handed['upload']}", params={"side": 120})
    seen = PIL.Image.open(io.BytesIO(answer.content))
    assert (seen.format, seen.size) == ("JPEG", (90, 120))
    wanted = image.transpose(PIL.Image.Transpose.ROTATE_270).resize((90, 120))
    assert np.abs(np.asarray(seen, float) - np.asarray(wanted, float)).mean() < 12
    again = web.get(
        f"/v1/pictures/{handed['upload']}",
        params={"side": 120},
        headers={"if-none-match": answer.headers["etag"]},
    )
    assert (again.status_code, again.content) == (304, b"")


def test_the_collection_is_listed_searched_and_handed_out(place: Path, web: httpx.Client) -> None:
    table = web.get("/v1/indexes").json()
    assert [(each["name"], each["images"], each["last"]) for each in table["indexes"]] == [
        ("of-a", 6, "sift"),
        ("of-b", 6, "sift"),
    ]
    (pipeline,) = table["indexes"][0]["pipelines"]
    assert pipeline["probability"]
    assert pipeline["rerankers"][-1] == "verdict"
    assert {"verdict", "aqe"} <= {row["name"] for row in table["rerankers"]}
    some = web.get("/v1/indexes/1/images", params={"offset": 1, "limit": 2}).json()
    assert (some["total"], [image["name"] for image in some["images"]]) == (6, ["11.png", "3.png"])
    row = some["images"][1]["row"]
    file = web.get(f"/v1/indexes/1/images/{row}/file")
    assert file.content == (place / "b" / "3.png").read_bytes()
    assert 'attachment; filename="3.png"' in file.headers["content-disposition"]
    part = web.get(f"/v1/indexes/1/images/{row}/file", headers={"range": "bytes=2-5"})
    assert (part.status_code, part.content) == (206, file.content[2:6])
    small = PIL.Image.open(io.BytesIO(web.get(f"/v1/indexes/1/images/{row}", params={"side": 60}).content))
    assert small.size == (60, 45)


def test_answers_are_taken_away(place: Path, web: httpx.Client, picture: str) -> None:
    body = {"question": question(picture, indexes=[0], min_score=0.5)}
    index = instsearch.open(place / "of-a")
    answer = index.query(place / "query.png", BOX, 5, min_score=0.5)
    table = web.post("/v1/export", params={"format": "csv"}, json=body)
    assert table.text == instsearch.to_csv(answer)
    assert "query-hits.csv" in table.headers["content-disposition"]
    plain = web.post("/v1/export", params={"format": "json"}, json=body).json()
    assert hits(plain) == hits(instsearch.to_json(answer))
    page = web.post("/v1/export", params={"format": "html"}, json=body).text
    assert page.count("<li ") == len(answer.shown)
    assert "instsearch-" not in page  # nothing of where pictures are kept that were handed in
    wrong = web.post("/v1/export", params={"format": "xls"}, json=body)
    assert (wrong.status_code, "csv" in wrong.json()["detail"]) == (400, True)


def test_the_command_line_that_asks_the_same(
    place: Path, web: httpx.Client, picture: str, cli: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    body = question(picture, indexes=[0], min_score=0.123456789, rerank=["verified-qe", "verdict"])
    line = web.post("/v1/command", json={"question": body}).json()["command"]
    program, *words = shlex.split(line)
    assert program == "instsearch"
    assert "0.123456789" in words
    monkeypatch.chdir(place)
    assert hits(cli(*words, "--json").json) == hits(web.post("/v1/query", json=body).json())


def test_counts_and_the_description(web: httpx.Client, picture: str) -> None:
    web.post("/v1/query", json=question(picture))
    counted = web.get("/metrics").text
    assert 'instsearch_requests_total{method="POST",path="/v1/query",status="200"}' in counted
    assert "instsearch_answer_seconds_count" in counted
    document = web.get("/v1/openapi.json").json()
    assert document["openapi"].startswith("3.1")
    answer = document["components"]["schemas"]["Answer"]
    assert answer["properties"].keys() == instsearch.schema("query")["properties"].keys()


@pytest.mark.parametrize("accept", ["application/json", "application/x-ndjson"])
def test_answers_are_as_they_are_described(web: httpx.Client, picture: str, accept: str) -> None:
    document = web.get("/v1/openapi.json").json()
    wrong = {"views": [{"picture": {"upload": "gone"}, "box": None}]}
    for path, body in (
        ("/v1/query", question(picture)),
        ("/v1/batch", {"questions": [question(picture), wrong]}),
    ):
        answer = web.post(path, json=body, headers={"accept": accept})
        described = document["paths"][path]["post"]["responses"]["200"]["content"]
        schema = {**described[answer.headers["content-type"]]["schema"], "components": document["components"]}
        lines = answer.text.splitlines()
        assert lines
        for line in lines:
            Draft202012Validator(schema).validate(json.loads(line))


def test_every_path_is_described(served: Running, web: httpx.Client) -> None:
    routes = {
        (route.path.replace(":int", ""), method.lower())
        for route in Interface(served.service).routes()
        for method in route.methods or ()
        if method != "HEAD"
    }
    document = web.get("/v1/openapi.json").json()
    described = {(path, method) for path, each in document["paths"].items() for method in each}
    assert described == routes - {("/", "get"), ("/v1/openapi.json", "get"), ("/v1/box", "post")}


def test_the_forms_of_other_programs(
    place: Path, web: httpx.Client, picture: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    body = {"question": question(picture, indexes=[0], min_score=0.5)}
    answer = instsearch.open(place / "of-a").query(place / "query.png", BOX, 5, min_score=0.5)
    annotations = web.post("/v1/export", params={"format": "annotations"}, json=body).json()
    wanted = instsearch.to_annotations(answer)["items"]
    assert [item["target"] for item in annotations["items"]] == [item["target"] for item in wanted]
    run = web.post("/v1/export", params={"format": "trec"}, json=body).text.splitlines()
    assert [line.split()[1:] for line in run] == [
        line.split()[1:] for line in instsearch.to_trec(answer).splitlines()
    ]
    archive = zipfile.ZipFile(io.BytesIO(web.post("/v1/export", params={"format": "zip"}, json=body).content))
    names = [f"{hit.rank}-{hit.path.name}" for hit in answer]
    assert sorted(archive.namelist()) == [*names, "hits.csv"]
    assert archive.read(names[1]) == answer[1].path.read_bytes()
    while list(tmp_path.iterdir()):  # it is removed once it was sent
        time.sleep(0.01)


def test_a_session_is_saved_opened_and_asked_elsewhere(
    place: Path, web: httpx.Client, picture: str, cli: Callable[..., Any], tmp_path: Path
) -> None:
    row = web.get("/v1/indexes/1/images", params={"search": "11"}).json()["images"][0]["row"]
    negative = {"picture": {"index": 1, "row": row}, "box": [10, 10, 50, 50]}
    body = question(picture, indexes=[0], min_score=0.5, against=[negative])
    marks = {"right": ["0.png"]}
    saved = web.post("/v1/session", json={"question": body, "marks": marks})
    assert "attachment" in saved.headers["content-disposition"]
    back = web.post("/v1/session/open", content=saved.content).json()
    assert back["marks"] == marks
    assert [(each.get("upload"), each.get("row"), each["name"]) for each in back["pictures"]] == [
        (picture, None, "query.png"),
        (None, row, "11.png"),
    ]
    wanted = hits(web.post("/v1/query", json=body).json())
    assert hits(web.post("/v1/query", json=back["question"]).json()) == wanted
    (tmp_path / "session.json").write_bytes(saved.content)
    assert hits(cli("query", "--session", tmp_path / "session.json", "--json").json) == wanted


@pytest.mark.parametrize(
    "text", [b"", b"{}", b"[]", b"\xff\xfe", b'{"instsearch": "session", "version": 99}']
)
def test_what_is_no_session(web: httpx.Client, text: bytes) -> None:
    answer = web.post("/v1/session/open", content=text)
    assert (answer.status_code, "session" in answer.json()["detail"]) == (422, True)


def test_a_session_opens_no_file_that_is_of_no_index(web: httpx.Client) -> None:
    view = {"picture": {"path": "/etc/hostname"}, "box": None}
    session = {"instsearch": "session", "version": 1, "views": [view]}
    answer = web.post("/v1/session/open", json=session)
    assert (answer.status_code, "in no index" in answer.json()["detail"]) == (422, True)


def test_a_hit_beside_the_query(place: Path, web: httpx.Client, picture: str) -> None:
    body = question(picture)
    first = web.post("/v1/query", json=body).json()["hits"][0]
    hit = {"index": first["index"], "row": first["row"]}
    seen = web.post("/v1/aligned", json={"question": body, "view": 0, "hit": hit}).json()
    assert seen["agreement"] > 0.5 > seen["disagreement"]
    assert "%" in seen["text"]
    data = base64.b64decode(seen["picture"].removeprefix("data:image/jpeg;base64,"))
    w, h = PIL.Image.open(io.BytesIO(data)).size
    assert w > 2 * h * 0.9
    other = web.get("/v1/indexes/0/images", params={"search": "2.png"}).json()["images"][0]
    seen = web.post("/v1/aligned", json={"question": body, "hit": {"index": 0, "row": other["row"]}}).json()
    assert (seen["picture"], bool(seen["text"])) == (None, True)
    plain = web.post("/v1/aligned", json={"question": {**body, "rerank": ["none"]}, "hit": hit}).json()
    assert (plain["picture"], "compares" in plain["text"]) == (None, True)
    for table in ({"pipeline": "nix"}, {"pipeline": "nix+sift"}, {"rerank": ["nix"]}):
        wrong = web.post("/v1/aligned", json={"question": {**body, **table}, "hit": hit})
        assert (wrong.status_code, "nix" in wrong.json()["detail"]) == (400, True)
    for wrong in ({}, {"hit": {"index": 0}}, {"hit": {"index": 9, "row": 0}}, {"hit": hit, "view": 5}):
        assert web.post("/v1/aligned", json={"question": body, **wrong}).status_code in (400, 404)


def test_odd_pictures_are_seen_as_people_see_them(web: httpx.Client) -> None:
    """An animation by its first frame, 16 bits by their upper 8; what is too large is refused from its header."""
    frames = [PIL.Image.fromarray(scene(i)) for i in range(3)]
    animated, deep, huge = io.BytesIO(), io.BytesIO(), io.BytesIO()
    frames[0].save(animated, "GIF", save_all=True, append_images=frames[1:])
    ramp = np.linspace(0, 65535, 240).astype(np.uint16)[None].repeat(180, 0)
    PIL.Image.fromarray(ramp).save(deep, "PNG")
    PIL.Image.new("1", (20_000, 15_000)).save(huge, "PNG")
    seen = []
    for name, file in (("moving.gif", animated), ("deep.png", deep)):
        handed = web.post("/v1/pictures", params={"name": name}, content=file.getvalue()).json()
        assert handed["size"] == [240, 180]
        jpeg = web.get(f"/v1/pictures/{handed['upload']}", params={"side": 240}).content
        seen.append(np.asarray(PIL.Image.open(io.BytesIO(jpeg)).convert("RGB"), float))
    assert np.abs(seen[0] - scene(0)).mean() < 30  # 256 colours
    assert np.abs(seen[1][:, :, 0] - ramp / 257).mean() < 3
    refused = web.post("/v1/pictures", params={"name": "huge.png"}, content=huge.getvalue())
    assert refused.status_code == 422
    assert "20000" in refused.json()["detail"].replace(",", "")

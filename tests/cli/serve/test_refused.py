"""Nobody is let in without the token, the right host and the right origin; what is wrong or too much is refused."""

from __future__ import annotations

import contextlib
import json
from pathlib import Path
from typing import Any

import httpx
import pytest
from hypothesis import given
from hypothesis import strategies as st

import instsearch
from instsearch_cli.serve import guard, running
from instsearch_cli.serve.problems import Problem
from instsearch_cli.serve.running import Place, Running
from served_scenes import BOX, TOKEN, refused

BEARER = {"authorization": f"Bearer {TOKEN}"}
PATHS = ("/v1/indexes", "/v1/indexes/0/images", "/v1/indexes/0/images/0", "/metrics", "/v1/openapi.json")


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize(
    "token",
    [
        None,
        "",
        "Bearer",
        f"Bearer {TOKEN}x",
        f"Bearer {TOKEN[:-1]}",
        f"Basic {TOKEN}",
        TOKEN,
        "Bearer ü",
    ],
)
def test_no_token_no_answer(address: str, path: str, token: str | None) -> None:
    headers = {} if token is None else {"authorization": token.encode()}
    assert "link" in refused(httpx.get(address + path, headers=headers), 401)
    assert "link" in refused(httpx.get(f"{address}{path}?token={TOKEN}"), 401)


@pytest.mark.parametrize(
    "host",
    [
        "evil.example",
        "127.0.0.1",
        "localhost",
        "127.0.0.1:1",
        "localhost.evil.example:{port}",
        "",
        "x@127.0.0.1:{port}",
    ],
)
def test_another_name_of_this_machine_is_none(served: Running, address: str, host: str) -> None:
    headers = {**BEARER, "host": host.format(port=served.port)}
    for path in ("/", "/health", *PATHS):
        answer = httpx.get(address + path, headers=headers)
        assert answer.status_code in (400, 403), path


@pytest.mark.parametrize(
    "origin", ["http://evil.example", "null", "https://127.0.0.1", "http://localhost:1", "file://"]
)
@pytest.mark.parametrize("path", PATHS)
def test_another_site_is_not_answered(address: str, path: str, origin: str) -> None:
    refused(httpx.get(address + path, headers={**BEARER, "origin": origin}), 403)


@pytest.mark.parametrize(
    ("origin", "host", "own"),
    [
        ("http://localhost", "localhost", True),
        ("http://localhost", "localhost:80", True),
        ("https://photos.example", "photos.example:443", True),
        ("https://photos.example:443", "photos.example", True),
        ("https://localhost", "localhost:80", False),
        ("http://localhost:443", "localhost", False),
        ("ftp://localhost", "localhost", False),
        ("null", "localhost", False),
    ],
)
def test_the_port_of_a_scheme_may_be_left_out(served: Running, origin: str, host: str, own: bool) -> None:
    names = running.names_of(Place(names=("photos.example:443",)), 80)
    headers = [(b"host", host.encode()), (b"origin", origin.encode())]
    headers.append((b"authorization", f"Bearer {TOKEN}".encode()))
    scope = {"path": "/v1/indexes", "method": "GET", "headers": headers}
    with contextlib.nullcontext() if own else pytest.raises(Problem, match="other sites"):
        guard.Door(TOKEN, names).check(scope)


@pytest.mark.parametrize("site", ["cross-site", "same-site"])
def test_what_a_browser_says_comes_from_elsewhere(address: str, site: str) -> None:
    for path in PATHS:
        refused(httpx.get(address + path, headers={**BEARER, "sec-fetch-site": site}), 403)
    opened = {"sec-fetch-site": site, "sec-fetch-mode": "navigate"}
    assert httpx.get(f"{address}/health", headers={"sec-fetch-site": "same-origin"}).status_code == 200
    refused(httpx.get(f"{address}/v1/indexes", headers={**BEARER, **opened}), 403)


def test_nothing_that_is_asked_lets_others_in(address: str, web: httpx.Client) -> None:
    for path in ("/health", "/v1/indexes"):
        answer = web.get(path)
        assert "access-control-allow-origin" not in answer.headers
        for name, value in guard.HEADERS.items():
            assert answer.headers[name] == value
    preflight = httpx.options(f"{address}/v1/query", headers={"origin": "http://evil.example"})
    refused(preflight, 403)


@pytest.mark.parametrize(
    "path",
    [
        "/v1/indexes/0/images/../../../../etc/passwd",
        "/v1/indexes/0/images/%2e%2e%2f%2e%2e%2fetc%2fpasswd",
        "/v1/indexes/0/images/-1",
        "/v1/indexes/0/images/99999",
        "/v1/indexes/0/images/99999999999999999999/file",
        "/v1/indexes/9/images",
        "/v1/pictures/../../etc/passwd",
        "/v1/pictures/%2fetc%2fpasswd",
        "/v1/pictures/0" * 50,
        "/static/",
        "//etc/passwd",
    ],
)
def test_a_path_leads_nowhere(web: httpx.Client, path: str) -> None:
    refused(web.get(path), 404)


@pytest.mark.parametrize(
    ("wrong", "status"), [("bytes=99999999-", 416), ("bytes=x", 400), ("lines=1-2", 400)]
)
def test_a_range_that_there_is_not(web: httpx.Client, wrong: str, status: int) -> None:
    answer = web.get("/v1/indexes/0/images/0/file", headers={"range": wrong})
    assert "Range" in refused(answer, status)
    assert ("content-range" in answer.headers) == (status == 416)


def test_another_method_is_told_which_there_are(web: httpx.Client) -> None:
    for method, path, allowed in (("PUT", "/v1/indexes", "GET, HEAD"), ("GET", "/v1/query", "POST")):
        answer = web.request(method, path)
        refused(answer, 405)
        assert sorted(answer.headers["allow"].split(", ")) == allowed.split(", ")


BAD: list[tuple[Any, str]] = [
    ([], "object"),
    ({}, "views"),
    ({"views": []}, "views"),
    ({"views": [{"picture": {"upload": "x"}, "bocks": None}]}, "box"),
    ({"views": [{"picture": {}}]}, "views[0].picture"),
    ({"views": [{"picture": {"upload": "gone"}}]}, "hand it in"),
    ({"views": [{"picture": {"index": 0, "row": -1}}]}, "row"),
    ({"views": [{"picture": {"index": 7, "row": 0}}]}, "no index 7"),
    ({"views": [{"picture": {"data": "%%%"}}]}, "base64"),
    ({"views": [{"picture": {"data": "aGVsbG8="}}]}, "not an image"),
    ({"views": [{"picture": {"data": ""}}]}, "data is empty"),
    ({"views": [{"picture": {"upload": ""}}]}, "views[0].picture"),
    ({"views": [{"picture": {"upload": 5, "data": "aGVsbG8="}}]}, "one of these"),
    ({"views": [{"picture": {"upload": "UP", "index": 0, "row": 0}}]}, "one of these"),
    ({"views": [{"picture": {"data": "aGVsbG8=", "name": 5}}]}, "views[0].picture.name is text"),
    ({"views": [{"picture": {"data": "aGVsbG8=", "name": {"a": 1}}}]}, "views[0].picture.name is text"),
    ({"views": [{"picture": {"upload": "UP"}}], "against": 0}, "against is a list"),
    ({"views": [{"picture": {"upload": "UP"}}], "against": {}}, "against is a list"),
    ({"views": [{"picture": {"upload": "UP"}}], "against": ""}, "against is a list"),
    ({"views": [{"picture": {"upload": "UP"}, "box": [1, 2, 3]}]}, "views[0].box"),
    ({"views": [{"picture": {"upload": "UP"}, "box": [1, 2, 3, "4"]}]}, "views[0].box"),
    ({"views": [{"picture": {"upload": "UP"}, "box": [0, 0, 0, 0]}]}, "width and height"),
    ({"views": [{"picture": {"upload": "UP"}, "box": [900, 900, 50, 50]}]}, "no part"),
    ({"views": [{"picture": {"upload": "UP"}, "box": None}], "k": 0}, "k is"),
    ({"views": [{"picture": {"upload": "UP"}, "box": None}], "k": True}, "k is"),
    ({"views": [{"picture": {"upload": "UP"}, "box": None}], "min_score": 90}, "0.9"),
    ({"views": [{"picture": {"upload": "UP"}, "box": None}], "pipeline": "sfit"}, "sift"),
    ({"views": [{"picture": {"upload": "UP"}, "box": None}], "rerank": ["verdikt"]}, "verdict"),
    ({"views": [{"picture": {"upload": "UP"}, "box": None}], "rerank": "verdict"}, "rerank"),
    ({"views": [{"picture": {"upload": "UP"}, "box": None}], "indexes": [0, 0]}, "once"),
    ({"views": [{"picture": {"upload": "UP"}, "box": None}], "indexes": [5]}, "no index 5"),
    ({"views": [{"picture": {"upload": "UP"}, "box": None}], "per_image": 3, "rerank": ["aqe"]}, "per-image"),
]


@pytest.mark.parametrize(("body", "said"), BAD, ids=[said for _, said in BAD])
@pytest.mark.parametrize("accept", ["application/json", "application/x-ndjson"])
def test_a_wrong_question_is_told_what_is_wrong(
    web: httpx.Client, picture: str, body: Any, said: str, accept: str
) -> None:
    text = json.dumps(body).replace('"UP"', f'"{picture}"')
    answer = web.post("/v1/query", content=text, headers={"accept": accept})
    assert said in refused(answer, 400, 404, 422)


@pytest.mark.parametrize("rest", ["0", "false", "[]", '""'])
def test_the_rest_of_a_form_is_an_object(web: httpx.Client, place: Path, rest: str) -> None:
    files = {"picture": ("query.png", (place / "query.png").read_bytes())}
    assert "object" in refused(web.post("/v1/query", files=files, data={"question": rest}), 400)


def nested(levels: int) -> Any:
    return {"a": nested(levels - 1)} if levels > 1 else {}


@pytest.mark.parametrize("marks", [0, False, [], "", nested(17)])
def test_what_is_no_marks(web: httpx.Client, picture: str, marks: Any) -> None:
    body = {"question": {"views": [{"picture": {"upload": picture}}]}, "marks": marks}
    assert "16 levels" in refused(web.post("/v1/session", json=body), 400)
    saved = web.post("/v1/session", json={**body, "marks": nested(16)})
    assert web.post("/v1/session/open", content=saved.content).json()["marks"] == nested(16)
    opened = web.post("/v1/session/open", json={**saved.json(), "marks": marks})
    assert "16 levels" in refused(opened, 422)


@pytest.mark.parametrize(
    ("more", "said"),
    [
        ({"k": 99_999}, "1,000"),
        ({"per_image": 50_000}, "1,000"),
        ({"views": 150}, "100 pictures"),
        ({"against": 100}, "100 pictures together"),
    ],
)
def test_a_session_that_asks_more_than_is_answered(
    web: httpx.Client, picture: str, more: dict[str, int], said: str
) -> None:
    body = {"question": {"views": [{"picture": {"upload": picture}}]}}
    session = web.post("/v1/session", json=body).json()
    view = session["views"][0]
    wrong = {name: [view] * n if name in ("views", "against") else n for name, n in more.items()}
    assert said in refused(web.post("/v1/session/open", json={**session, **wrong}), 422)


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ({"port": 70_000}, "port"),
        ({"port": -1}, "port"),
        ({"port": "x"}, "port"),
        ({"port": True}, "port"),
        ({"token": 5}, "token"),
        ({"host": None}, "host"),
        ({"allow_hosts": "photos.example"}, "list of names"),
        ({"allow_hosts": [5]}, "list of names"),
    ],
)
def test_a_place_that_is_none(place: Path, wrong: Any, said: str) -> None:
    with pytest.raises(instsearch.UsageError, match=said):
        instsearch.serve(place / "of-a", **wrong)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "{",
        "[" * 10_000,
        '{"views": NaN}',
        '{"k": 1e999}',
        '{"k": ' + "9" * 5000 + "}",
        '{"a":1,"a":2}',
        "\ud800",
    ],
)
def test_what_is_no_json(web: httpx.Client, text: str) -> None:
    refused(web.post("/v1/query", content=text.encode("utf-8", "surrogatepass")), 400, 422)


@given(
    st.recursive(
        st.none()
        | st.booleans()
        | st.integers()
        | st.floats(allow_nan=False, allow_infinity=False)
        | st.text(max_size=5),
        lambda inner: (
            st.lists(inner, max_size=4)
            | st.dictionaries(
                st.sampled_from(["views", "against", "picture", "box", "upload", "index", "row", "k"]), inner
            )
        ),
        max_leaves=20,
    )
)
def test_no_json_is_a_bug(web: httpx.Client, body: Any) -> None:
    answer = web.post("/v1/query", json=body)
    assert answer.status_code == 200 or refused(answer, 400, 404, 422)


def test_too_much_is_refused_before_it_is_read(
    web: httpx.Client, served: Running, picture: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(guard, "MOST_BODY", 200_000)
    for content in (b"x" * 200_001, (b"x" * 10_000 for _ in range(30))):
        with contextlib.suppress(httpx.TransportError):  # the line is cut, and that may come first
            assert "MB" in refused(web.post("/v1/pictures", content=content), 413)
    monkeypatch.setattr(served.service.uploads, "bytes_each", 1000)
    assert "MB" in refused(web.post("/v1/pictures", content=b"x" * 1001), 413)
    refused(web.post("/v1/pictures", content=b""), 400)
    assert (
        web.post("/v1/query", json={"views": [{"picture": {"upload": picture}, "box": BOX}]}).status_code
        == 200
    )


def test_pictures_of_every_kind_of_wrong(web: httpx.Client, place: Path) -> None:
    whole = (place / "query.png").read_bytes()
    for data in (b"hello", whole[:200], b"\xff\xd8\xff\xe0" + bytes(100), b"GIF89a" + b"\xff" * 50):
        detail = refused(web.post("/v1/pictures", params={"name": "a\x1b[31m.png"}, content=data), 422)
        assert detail.isprintable()

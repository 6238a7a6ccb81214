"""Sessions: written and read back, and every fault in one line."""

from __future__ import annotations

import base64
import copy
import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from instsearch_cli.engine.session_file import (
    SavedPicture,
    SavedView,
    Session,
    embedded,
    read_session,
    write_session,
)
from instsearch_cli.errors import InstsearchError
from plain_pictures import picture
from schema_check import valid

SESSION: dict[str, Any] = {
    "instsearch": "session",
    "version": 1,
    "views": [
        {
            "picture": {"name": "mug.jpg", "data": base64.b64encode(b"bytes").decode()},
            "box": [1, 2, 30.5, 40],
        },
        {"picture": {"path": "/photos/a.jpg"}, "box": None},
    ],
    "against": [{"picture": {"path": "/photos/b.jpg"}}],
    "indexes": ["/index"],
    "pipeline": "sift",
    "rerank": ["none"],
    "refine": True,
    "k": 7,
    "per_image": 0,
    "min_score": 0.25,
    "marks": {"right": [{"index": 0, "row": 3}]},
}


def read(table: Any) -> Session:
    return read_session(json.dumps(table).encode(), "it")


def test_a_session_is_what_was_written() -> None:
    session = read(SESSION)
    a, b = SavedPicture("mug.jpg", None, b"bytes"), SavedPicture("/photos/a.jpg", Path("/photos/a.jpg"))
    assert session.views == (SavedView(a, (1, 2, 30.5, 40)), SavedView(b))
    assert session.indexes == (Path("/index"),)
    assert (session.pipeline, session.rerank, session.refine) == ("sift", ("none",), True)
    assert (session.k, session.per_image, session.min_score) == (7, 0, 0.25)
    assert session.marks == SESSION["marks"]
    text = write_session(session)
    assert read_session(text.encode()) == session
    valid("session", text)
    valid("session", json.dumps(SESSION))


def test_what_is_left_out_is_as_a_query_has_it() -> None:
    session = read({key: SESSION[key] for key in ("instsearch", "version", "views")})
    assert (session.against, session.indexes, session.marks) == ((), (), {})
    assert (session.k, session.per_image, session.min_score, session.rerank) == (20, 1, None, None)


def test_a_file_with_the_pictures_bytes_is_whole(tmp_path: Path) -> None:
    one = embedded(picture(tmp_path / "one.png", (40, 30)))
    path = tmp_path / "s.json"
    path.write_text(
        write_session(Session((SavedView(one, (1, 2, 3, 4)), SavedView(one, (5, 6, 7, 8))))), "utf-8"
    )
    (tmp_path / "one.png").unlink()
    asked = read_session(path).question()
    assert asked["picture"].size == (40, 30)
    assert asked["picture"].name == "one.png"
    assert asked["box"] == (1, 2, 3, 4)
    assert asked["also"] == [(asked["picture"], (5, 6, 7, 8))]


WRONG: list[tuple[list[Any], Any, str]] = [
    (["version"], 2, "session of version 2: open it with a newer instsearch"),
    (["version"], "1", "version is a whole number"),
    (["version"], True, "version is a whole number"),
    (["veiws"], [], "a session has no 'veiws'. Did you mean 'views'?"),
    (["instsearch"], "index", "is no session"),
    (["views"], [], "views are empty"),
    (["views"], {}, "views are a list"),
    (["views"], [{"picture": {"path": "a"}}] * 201, "200 at most"),
    (["views", 0], 5, "views, number 1 is an object"),
    (["views", 1, "boxes"], [], "views, number 2 has no 'boxes'"),
    (["views", 0, "picture"], "a.jpg", "the picture is an object"),
    (["views", 0, "picture"], {}, "has a path or data"),
    (["views", 1, "picture", "data"], "", "has a path or data"),
    (["views", 1, "picture", "path"], "", "path is a name"),
    (["views", 1, "picture", "path"], "a\0b", "path is a name"),
    (["views", 1, "picture", "path"], "a" * 5000, "path is a name"),
    (["views", 0, "picture", "data"], "n o", "data is not base64"),
    (["views", 0, "picture", "data"], 5, "data is text in base64"),
    (["views", 0, "box"], [1, 2, 3], "a box is [x, y, w, h]"),
    (["views", 0, "box"], [1, 2, 3, "4"], "a box is [x, y, w, h]"),
    (["views", 0, "box"], [1, 2, 0, 4], "width and height above 0"),
    (["against"], None, "against are a list"),
    (["indexes"], "i", "indexes is a list"),
    (["indexes"], [""], "indexes is a name"),
    (["pipeline"], 5, "pipeline is a name"),
    (["rerank"], ["a"] * 65, "rerank is a list of 64 names at most"),
    (["refine"], 1, "refine is true or false"),
    (["k"], 0, "k is a whole number from 1"),
    (["k"], True, "k is a whole number from 1"),
    (["per_image"], -1, "per_image is a whole number from 0"),
    (["min_score"], "0.5", "min_score is a number"),
    (["marks"], [], "marks are an object"),
]


@pytest.mark.parametrize(("place", "value", "said"), WRONG)
def test_a_fault_is_one_true_line(place: list[Any], value: Any, said: str) -> None:
    table = copy.deepcopy(SESSION)
    at: Any = table
    for key in place[:-1]:
        at = at[key]
    at[place[-1]] = value
    with pytest.raises(InstsearchError) as caught:
        read(table)
    text = str(caught.value)
    assert said in text
    assert text.startswith("it")
    assert "\n" not in text
    assert len(text) < 300


def test_marks_have_a_bottom() -> None:
    marks: Any = []
    for _ in range(20):
        marks = [marks]
    with pytest.raises(InstsearchError, match="16 levels"):
        read({**SESSION, "marks": {"deep": marks}})


@pytest.mark.parametrize(
    "data", [b"", b"\xff", b"[]", b"5", b'"session"', b"{", b"[" * 100_000, b'{"instsearch": NaN}']
)
def test_what_is_no_session(data: bytes) -> None:
    with pytest.raises(InstsearchError, match=r"^it "):
        read_session(data, "it")


JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-5, 5)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(max_size=5),
    lambda below: st.lists(below, max_size=4) | st.dictionaries(st.text(max_size=5), below, max_size=4),
    max_leaves=8,
)


@given(st.sampled_from(sorted(SESSION)), JSON)
def test_any_value_is_a_session_or_an_error(key: str, value: Any) -> None:
    try:
        session = read({**SESSION, key: value})
    except InstsearchError:
        return
    assert read_session(write_session(session).encode()) == session

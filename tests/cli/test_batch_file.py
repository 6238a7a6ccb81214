"""Files of questions: tables as spreadsheets write them, JSON lines, folders, and what is wrong with some."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from instsearch_cli.engine.batch_file import Entry, decoded, parse_questions, read_questions
from instsearch_cli.errors import InstsearchError
from plain_pictures import picture


def question(entry: Entry) -> tuple[str, str, object, list[object], list[object]]:
    asked = entry.question
    return entry.id, str(asked["picture"]), asked["box"], asked["also"], asked["against"]


@pytest.mark.parametrize("separator", [",", ";", "\t"])
@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
def test_a_table_as_spreadsheets_write_them(tmp_path: Path, separator: str, encoding: str) -> None:
    rows = [
        ["ID", "Image", "box", "also", "not", "note"],
        ["a", "é 1.jpg", '"1,2,30,40"', "2.jpg|b/3.jpg", "", "any"],
        ["", "2.jpg", "", "", "x.jpg:5.5,6,7,8" if separator != "," else '"x.jpg:5.5,6,7,8"', ""],
    ]
    path = tmp_path / "questions.csv"
    path.write_bytes("\r\n".join(separator.join(row) for row in rows).encode(encoding))
    first, second = map(question, read_questions(path))
    there = str(tmp_path)
    also = [(tmp_path / "2.jpg", None), (tmp_path / "b/3.jpg", None)]
    assert first == ("a", f"{there}/é 1.jpg", (1, 2, 30, 40), also, [])
    assert second == ("3", f"{there}/2.jpg", None, [], [(tmp_path / "x.jpg", (5.5, 6, 7, 8))])


def test_columns_of_a_box_each() -> None:
    one = parse_questions("image;x;y;w;h\na.jpg;1,5;2;30;40\nb.jpg;;;;\nc.jpg;1;;3;4\n", "it")
    assert [entry.question.get("box") for entry in one] == [(1.5, 2, 30, 40), None, None]
    assert [bool(entry.wrong) for entry in one] == [False, False, True]
    assert (
        one[2].wrong == "line 4: of x, y, w and h some are empty: fill in all, or none for the whole picture"
    )


def test_columns_beside_those_of_the_box_may_be_called_anything() -> None:
    for text in ("image,box,mailbox,notes\na.jpg,,1,2\n", "image,x,y,w,h,bbox\na.jpg,1,2,3,4,5\n"):
        (entry,) = parse_questions(text, "it")
        assert not entry.wrong


def test_a_box_that_is_none_is_told_as_it_is_written() -> None:
    blanks, spaced = parse_questions('image,box\na.jpg,10 10 100 100\na.jpg,"1, 2, 3, 4"\n', "it")
    assert blanks.wrong.startswith("line 2: a box is x,y,w,h in pixels of the upright picture")
    assert blanks.wrong.endswith("got '10 10 100 100'")
    assert spaced.question["box"] == (1, 2, 3, 4)


def test_json_lines() -> None:
    lines = [
        {"id": "a", "image": "1.jpg", "box": [1, 2, 3, 4]},
        {"id": 7, "image": "/p/2.jpg", "boxes": [[1, 2, 3, 4], "5,6,7,8"], "also": "3.jpg", "not": None},
        {
            "image": "4.jpg",
            "also": ["5.jpg:1,2,3,4", ["6.jpg", None], {"image": "7.jpg", "box": [1, 1, 2, 2]}],
        },
    ]
    text = "\n\n".join(map(json.dumps, lines))
    found = list(map(question, parse_questions(text, "it", Path("f"))))
    assert found == [
        ("a", "f/1.jpg", (1, 2, 3, 4), [], []),
        ("7", "/p/2.jpg", [(1, 2, 3, 4), (5, 6, 7, 8)], [(Path("f/3.jpg"), None)], []),
        (
            "5",
            "f/4.jpg",
            None,
            [(Path("f/5.jpg"), (1, 2, 3, 4)), (Path("f/6.jpg"), None), (Path("f/7.jpg"), (1, 1, 2, 2))],
            [],
        ),
    ]


def test_a_folder(tmp_path: Path) -> None:
    for name in ("b.jpg", "a/c.png"):
        picture(tmp_path / name)
    (tmp_path / "notes.txt").write_text("no picture")
    found = read_questions(tmp_path)
    assert [(entry.id, entry.question["picture"]) for entry in found] == [
        ("a/c.png", tmp_path / "a/c.png"),
        ("b.jpg", tmp_path / "b.jpg"),
    ]


WRONG_LINES = [
    ('{"image": "a.jpg", "bx": [1, 2, 3, 4]}', "a question has no 'bx'. Did you mean 'box'?"),
    ('{"box": [1, 2, 3, 4]}', "there is no image"),
    ('{"image": 5}', "5 is no image's name"),
    ('{"image": "a\\u0000b.jpg"}', "is no image's name"),
    ('{"image": "a.jpg", "box": [1, 2, 3]}', "a box is x, y, width and height"),
    ('{"image": "a.jpg", "box": [1, 2, -3, 4]}', "width and height above 0"),
    ('{"image": "a.jpg", "box": [1, 2, true, 4]}', "a box is"),
    ('{"image": "a.jpg", "box": []}', "no box in the list"),
    ('{"image": "a.jpg", "box": {"x": 1}}', "a box is [x, y, w, h]"),
    ('{"image": "a.jpg", "box": [1, 2, 3, 4], "boxes": [[1, 2, 3, 4]]}', "two names for one thing"),
    ('{"image": "a.jpg", "also": [5]}', "a further picture is"),
    ('{"image": "a.jpg", "also": [{"image": "b.jpg", "boxes": []}]}', "no box in the list"),
    (
        '{"image": "a.jpg", "not": [{"image": "b.jpg", "box": [1, 2, 3, 4], "boxes": []}]}',
        "two names for one",
    ),
    ('{"image": "a.jpg", "id": [1]}', "an id is text or a whole number"),
    ('{"image": "a.jpg", "id": 1.5}', "an id is text or a whole number, not 1.5"),
    ('{"image": "a.jpg", "box": []}', "give null for the whole picture"),
    ('{"image": "a.jpg", "box": "1 2 3 4"}', "a box is x,y,w,h in pixels"),
    ('{"image": "a.jpg", "not": "b.jpg:1,2,3"}', "'not' takes IMAGE or IMAGE:x,y,w,h"),
    ('{"image": "a.jpg", "image": "b.jpg"}', "is there twice"),
    ('{"image": "a.jpg"', "is not JSON"),
    ('{"image": "a.jpg", "box": [1, 2, 3, NaN]}', "NaN is no number"),
    ("[1]", "a question is an object"),
]


@pytest.mark.parametrize(("line", "said"), WRONG_LINES)
def test_what_is_wrong_with_one_is_said_in_its_place(line: str, said: str) -> None:
    text = f'{{"id": "good", "image": "a.jpg"}}\n{line}\n{{"image": "c.jpg"}}'
    good, wrong, other = parse_questions(text, "it")
    assert not good.wrong
    assert not other.wrong
    assert said in wrong.wrong
    assert wrong.id == "2"
    assert "\n" not in wrong.wrong


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "it is empty"),
        ("picture,box\na,\n", "there is no column 'image'"),
        ("image,image\na,b\n", "column 'image' is there twice"),
        ("image,x,y\na,1,2\n", "there are only x, y"),
        ("image,box,x,y,w,h\n", "leave one out"),
        ('image,boxes\na,"1,2,3,4"\n', "column 'boxes' is not looked at: boxes are in a column 'box'"),
        ("image;Bounding Box\na;1\n", "column 'bounding box' is not looked at"),
        ("id,image\n1,a\n1,b\n", "line 3: id '1' is that of line 2, too"),
        ('{"id": "x", "image": "a"}\n{"id": "x", "image": "b"}', "line 2: id 'x' is that of line 1"),
        ('image\n"a\n', "unexpected end of data"),
    ],
)
def test_what_is_no_file_of_questions(text: str, said: str) -> None:
    with pytest.raises(InstsearchError) as caught:
        parse_questions(text, "it")
    assert said in str(caught.value)
    assert str(caught.value).startswith("it")


def test_a_row_of_too_few_fields_is_wrong_alone() -> None:
    a, b = parse_questions("image,box\na.jpg\nb.jpg,\n", "it")
    assert a.wrong == "line 2: 1 fields, and 2 columns have titles"
    assert not b.wrong


@pytest.mark.parametrize("data", [b"image\n\xff\n", b"\xff\xfei", b"image\n\0\n"])
def test_bytes_that_are_no_text(data: bytes) -> None:
    with pytest.raises(InstsearchError, match="it "):
        decoded(data, "it")


@given(st.text(max_size=200))
def test_any_text_is_questions_or_an_error(text: str) -> None:
    for begun in (text, "image,box\n" + text, '{"image": "a"}\n' + text):
        try:
            entries = parse_questions(begun, "it")
        except InstsearchError:
            continue
        assert len({entry.id for entry in entries}) == len(entries)
        assert all(entry.wrong or entry.question["picture"] for entry in entries)


def test_a_line_without_an_id_has_one_that_no_other_has() -> None:
    text = '{"id": 0, "image": "a.jpg"}\n{"id": "line 3", "image": "a.jpg"}\n{broken}\n{"id": 3, "image": "a.jpg"}'
    entries = parse_questions(text, "it")
    assert [entry.id for entry in entries] == ["0", "line 3", "line line 3", "3"]
    assert [bool(entry.wrong) for entry in entries] == [False, False, True, False]
    table = parse_questions("id,image\n3,a.jpg\n,b.jpg\n,c.jpg\n", "it")
    assert [entry.id for entry in table] == ["3", "line 3", "4"]
    with pytest.raises(InstsearchError, match="line 2: id '3' is that of line 1, too"):
        parse_questions('{"id": 3, "image": "a.jpg"}\n{"id": "3", "image": "b.jpg"}', "it")

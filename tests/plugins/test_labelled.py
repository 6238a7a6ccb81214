"""Labelled pictures: class folders and tables, and what is wrong with them."""

from __future__ import annotations

from pathlib import Path

import pytest

from instsearch_cli.errors import InstsearchError
from instsearch_plugins.training.labelled import classes_of, labelled


def put(root: Path, *names: str) -> Path:
    """Files that nobody reads."""
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(name.encode())
    return root


def test_class_folders_in_order_of_class_and_name(tmp_path: Path) -> None:
    put(
        tmp_path, "b/2.jpg", "b/1.png", "a/deep/9.jpg", "a/0.jpg", ".hidden/x.jpg", "a/notes.txt", "loose.jpg"
    )
    found = [(path.relative_to(tmp_path).as_posix(), label) for path, label in labelled(tmp_path)]
    assert found == [("a/0.jpg", "a"), ("a/deep/9.jpg", "a"), ("b/1.png", "b"), ("b/2.jpg", "b")]
    assert classes_of(labelled(tmp_path), tmp_path) == ["a", "b"]


def test_a_table_in_its_order(tmp_path: Path) -> None:
    put(tmp_path / "pictures", "x/2.jpg", "1.jpg", "été.jpg")
    table = tmp_path / "labels.csv"
    table.write_text(
        "\ufefflabel,path,more\ncat,x/2.jpg,0\ndog,1.jpg,0\ndog,1.jpg,1\n\n7,été.jpg,\n", "utf-8"
    )
    found = labelled(tmp_path / "pictures", table)
    expected = [("x/2.jpg", "cat"), ("1.jpg", "dog"), ("été.jpg", "7")]
    assert found == [(tmp_path / "pictures" / name, label) for name, label in expected]
    assert classes_of(found, tmp_path) == ["7", "cat", "dog"]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("path,label\n1.jpg,a\nno.jpg,b\n", r"labels.csv, line 3: there is no picture '.*no\.jpg'"),
        ("path,label\n1.jpg\n", "line 2: wanted the columns path,label: 2 fields"),
        ("path,label\n1.jpg,a\n1.jpg,b\n", "line 3: '1.jpg' has two labels"),
        ("image,class\n1.jpg,a\n", "columns path,label"),
        ("", "columns path,label"),
        ("path,label\n", "has no pictures"),
        ("path,label\n1.jpg,\xff\n", "not text in UTF-8"),
        ('path,label\n"1.jpg,a\n', "line 2: unexpected end of data"),
        ("path,label\n1\0.jpg,a\n", "a NUL"),
    ],
)
def test_tables_that_are_wrong(tmp_path: Path, text: str, message: str) -> None:
    put(tmp_path, "1.jpg")
    (tmp_path / "labels.csv").write_bytes(text.encode("latin-1"))
    with pytest.raises(InstsearchError, match=message) as raised:
        labelled(tmp_path, tmp_path / "labels.csv")
    assert str(raised.value).count("\n") < 2


def test_a_table_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(InstsearchError, match=r"cannot read .*labels.csv: No such file"):
        labelled(tmp_path, tmp_path / "labels.csv")


def test_folders_that_are_wrong(tmp_path: Path) -> None:
    with pytest.raises(InstsearchError, match="there is no folder"):
        labelled(tmp_path / "no")
    put(tmp_path, "loose.jpg")
    with pytest.raises(InstsearchError, match="no class folders"):
        labelled(tmp_path)
    put(tmp_path, "a/1.jpg")
    with pytest.raises(InstsearchError, match="one class alone, 'a'"):
        classes_of(labelled(tmp_path), tmp_path)
    put(tmp_path, "b/notes.txt")
    with pytest.raises(InstsearchError, match=r"there is no picture in the folder '.*b'"):
        labelled(tmp_path)

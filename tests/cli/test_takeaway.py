"""Hits in the forms of other programs, and copies of the photographs."""

from __future__ import annotations

import errno
import io
import os
import zipfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from instsearch_cli.engine.answer import Answer, Hit
from instsearch_cli.errors import InstsearchError, UsageError
from instsearch_cli.report import copy_hits, to_annotations, to_csv, to_trec, to_zip
from instsearch_cli.report.takeaway import safe_name
from plain_pictures import picture

ODD = 'a b: "c"?\n.jpg'


@pytest.fixture
def result(tmp_path: Path) -> Answer:
    one = picture(tmp_path / "a/one.jpg", (300, 400), orientation=6)
    hits = (
        Hit(1, "a/one.jpg", one, 0.9, (10.4, 20.0, 110.0, 70.0), (400, 300)),
        Hit(2, ODD, picture(tmp_path / ODD), 0.8, None, (400, 300)),
        Hit(3, "a/one.jpg", one, 0.7, (200.0, 100.0, 390.0, 290.0), (400, 300)),
        Hit(4, "gone.jpg", tmp_path / "gone.jpg", 0.6, (0.0, 0.0, 5.0, 5.0)),
    )
    return Answer("my query.jpg", tmp_path / "q.jpg", (1, 2, 31, 42), hits, {}, 0.1, 9, indexes=(tmp_path,))


def test_annotations_are_of_places_in_files(result: Answer, tmp_path: Path) -> None:
    page = to_annotations(result)
    assert page["@context"] == "http://www.w3.org/ns/anno.jsonld"
    assert page["type"] == "AnnotationPage"
    first, second, *_ = page["items"]
    assert first["type"] == "Annotation"
    assert first["target"] == {
        "source": (tmp_path / "a/one.jpg").as_uri(),
        "selector": {
            "type": "FragmentSelector",
            "conformsTo": "http://www.w3.org/TR/media-frags/",
            "value": "xywh=pixel:10,20,100,50",
        },
    }
    assert second["target"]["source"] == (tmp_path / ODD).as_uri()
    assert "selector" not in second["target"]
    assert [body["value"] for body in first["body"]] == ["my query.jpg: the whole picture", "0.9"]
    ids = [page["id"], *(item["id"] for item in page["items"])]
    assert len(set(ids)) == 5
    assert all(id.startswith("urn:uuid:") for id in ids)
    assert to_annotations(result) == page


def test_a_trec_run_has_an_image_once(result: Answer) -> None:
    lines = [line.split(" ") for line in to_trec(result, "my tag").splitlines()]
    assert lines == [
        ["my%20query.jpg", "Q0", "a/one.jpg", "1", "0.9", "my%20tag"],
        ["my%20query.jpg", "Q0", 'a%20b:%20"c"?%0A.jpg', "2", "0.8", "my%20tag"],
        ["my%20query.jpg", "Q0", "gone.jpg", "3", "0.6", "my%20tag"],
    ]
    assert to_trec(replace(result, hits=())) == ""


class Stream(io.RawIOBase):
    """What cannot be gone back in, as a socket."""

    def __init__(self) -> None:
        self.data = bytearray()

    def writable(self) -> bool:
        return True

    def write(self, data: Any) -> int:
        self.data += data
        return len(data)


def test_a_zip_archive_of_the_photographs(result: Answer, tmp_path: Path) -> None:
    stream = Stream()
    n, missing = to_zip(result, stream)
    assert n == 2
    assert missing == [f"{tmp_path / 'gone.jpg'}: No such file or directory"]
    with zipfile.ZipFile(io.BytesIO(bytes(stream.data))) as archive:
        assert archive.testzip() is None
        assert archive.namelist() == [
            "hits.csv",
            "1-one.jpg",
            "2-a b_ _c__\\n.jpg".replace("\\n", "_n"),
            "missing.txt",
        ]
        assert archive.read("1-one.jpg") == (tmp_path / "a/one.jpg").read_bytes()
        assert archive.read("hits.csv").decode() == to_csv(result)
        assert archive.read("missing.txt").decode().strip() == missing[0]
    to_zip(result, tmp_path / "hits.zip")
    assert zipfile.is_zipfile(tmp_path / "hits.zip")
    (tmp_path / "link.zip").symlink_to(tmp_path / "hits.zip")
    to_zip(result, tmp_path / "link.zip")
    assert (tmp_path / "link.zip").is_symlink()
    with pytest.raises(InstsearchError, match="cannot write"):
        to_zip(result, tmp_path / "no" / "hits.zip")


@pytest.mark.parametrize(
    "name", ["../../etc/passwd", "a\\b.jpg", "C:x.jpg", "con\x00.jpg", "x" * 300 + ".jpg", "a. "]
)
def test_names_are_safe(name: str) -> None:
    safe = safe_name(name)
    assert not set(safe) & set('/\\:*?"<>|\0')
    assert len(safe) <= 150
    assert safe == safe.rstrip(". ")


def test_links_and_drawn_copies(result: Answer, tmp_path: Path) -> None:
    n, missing = copy_hits(result, tmp_path / "links", "link")
    assert (n, len(missing)) == (2, 1)
    assert (tmp_path / "links/1-one.jpg").readlink() == tmp_path / "a/one.jpg"
    assert (tmp_path / f"links/2-{ODD}").read_bytes() == (tmp_path / ODD).read_bytes()
    n, missing = copy_hits(result, tmp_path / "drawn", "drawn")
    assert (n, len(missing)) == (2, 1)
    with Image.open(tmp_path / "drawn/1-one.jpg") as drawn:
        pixels = np.asarray(drawn).astype(int)
    assert pixels.shape == (300, 400, 3)  # upright
    pink = (pixels[..., 0] > 180) & (pixels[..., 1] < 110)
    assert pink[45, 8:14].any()  # the left edge of the first box, the right edge of the second
    assert pink[200, 385:392].any()
    assert not pink[85, 200]
    with pytest.raises(UsageError, match="copied as copy, link, drawn"):
        copy_hits(result, tmp_path / "other", "boxed")


def test_a_file_is_written_whole_or_not_at_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A disk that fills up leaves what was there; a link is written through, and a FIFO's kind as it comes."""
    from instsearch_cli.outside.files import write_text

    (tmp_path / "there.csv").write_text("before")
    (tmp_path / "link.csv").symlink_to("there.csv")
    write_text(tmp_path / "link.csv", "after")
    assert (tmp_path / "link.csv").is_symlink()
    assert (tmp_path / "there.csv").read_text() == "after"
    real = Path.write_text

    def full(path: Path, text: str, *rest: Any) -> int:
        real(path, text[:2], *rest)
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(Path, "write_text", full)
    with pytest.raises(InstsearchError, match=r"cannot write .*: No space left on device"):
        write_text(tmp_path / "there.csv", "more")
    assert (tmp_path / "there.csv").read_text() == "after"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["link.csv", "there.csv"]
    monkeypatch.undo()
    write_text(Path(os.devnull), "nothing")
    assert not Path(os.devnull).is_file()

"""The page of an answer: it stands alone, draws boxes where they are, and takes any name."""

from __future__ import annotations

import base64
import io
import json
import os
import sys
from pathlib import Path

import pytest
from PIL import Image

from instsearch_cli.engine.answer import Answer, Hit
from instsearch_cli.report import to_json, write_page, write_sheet
from instsearch_cli.report.page import page
from instsearch_cli.report.pictures import thumbnail
from plain_pictures import picture
from shown_answer import Page, result

__all__ = ["result"]  # fixtures


def test_page_stands_alone(result: Answer, tmp_path: Path) -> None:
    write_page(result, tmp_path / "page.html")
    seen = Page((tmp_path / "page.html").read_text("utf-8"))
    assert not {"script", "link", "iframe", "object"} & {tag for tag, _ in seen.tags}
    addresses = [a[k] for _, a in seen.tags for k in ("src", "href", "xlink:href", "srcset") if k in a]
    assert sorted(a for a in addresses if not a.startswith("data:image/jpeg;base64,")) == [
        "./a/one.jpg",
        "./query.jpg",
        "./two.png",  # below the page's folder: the folder may be moved; what is gone has no link
    ]
    assert len(addresses) == 7
    style = (tmp_path / "page.html").read_text("utf-8")
    assert "url(" not in style
    assert "prefers-color-scheme: dark" in style


def test_page_shows_what_was_found(result: Answer) -> None:
    seen = Page(page(result))
    assert seen.all("html")[0]["lang"] == "en"
    assert [a.get("href") for a in seen.all("a")] == [
        result.picture.as_uri(),
        *(hit.path.as_uri() for hit in result.hits[:2]),
        None,
    ]
    assert all(a["alt"] for a in seen.all("img"))
    text = " ".join(seen.words)
    for part in (
        "3 hits",
        "1,234 images searched in 0.04 s",
        "12.50",
        "--box 100,50,200,200 of 800 x 600",
        "10,20,100,50",
        "blcf",
    ):
        assert part in text
    bars = [a["style"] for a in seen.all("i")]
    assert bars == ["width:100.0%", "width:50.0%", "width:0.0%"]


def test_page_draws_boxes_in_original_pixels_over_the_thumbnail(result: Answer) -> None:
    seen = Page(page(result))
    assert [a["viewbox"] for a in seen.all("svg") if a.get("preserveaspectratio")] == [
        "0 0 800 600",
        "0 0 400 300",
    ]
    boxes = seen.all("rect", **{"class": "box"})
    assert [[float(a[k]) for k in ("x", "y", "width", "height")] for a in boxes] == [
        [100, 50, 200, 200],
        [10, 20, 100, 50],
    ]
    thumbs = [a["src"].partition(",")[2] for a in seen.all("img")]
    sizes = [Image.open(io.BytesIO(base64.b64decode(data))).size for data in thumbs]
    assert sizes[:3] == [(480, 360), (400, 300), (300, 400)]


def test_page_turns_pictures_upright(tmp_path: Path) -> None:
    turned = picture(tmp_path / "turned.jpg", (400, 300), orientation=6)
    seen = Page(page(Answer("q", turned, (10, 20, 300, 400), (), {}, 0.1, 0)))
    assert [a["viewbox"] for a in seen.all("svg") if a.get("preserveaspectratio")] == ["0 0 300 400"]
    assert (seen.all("img")[0]["width"], seen.all("img")[0]["height"]) == ("300", "400")


def test_names_are_data(tmp_path: Path) -> None:
    name = '"><script>alert(1)</script><img src=x onerror=alert(1)>.jpg'
    path = picture(tmp_path / "x.jpg")
    hits = (Hit(1, f"{name}/{name}", path, 1.0, None),)
    seen = Page(page(Answer(name, path.with_name(name.replace("/", "_")), None, hits, {name: name}, 0.1, 1)))
    assert not seen.all("script")
    assert not [a for _, a in seen.tags if "onerror" in a]
    assert len(seen.all("img")) == 2
    assert sum("<script>" in word for word in seen.words) >= 3


@pytest.mark.skipif(sys.platform == "win32", reason="file names are bytes on POSIX only")
def test_names_need_not_be_utf8(tmp_path: Path) -> None:
    path = tmp_path / os.fsdecode(b"caf\xe9.jpg")
    path.write_bytes(picture(tmp_path / "x.jpg").read_bytes())
    result = Answer(str(path), path, None, (Hit(1, path.name, path, 1.0, None),), {}, 0.1, 1)
    write_page(result, tmp_path / "page.html")
    text = (tmp_path / "page.html").read_text("utf-8")
    assert r"caf\xe9.jpg" in text
    assert "caf%E9.jpg" in text
    write_sheet(result, tmp_path / "sheet.png")
    json.dumps(to_json(result)).encode("ascii")


def test_a_picture_that_is_gone_is_said_so(result: Answer) -> None:
    seen = Page(page(result))
    assert [a["alt"] for a in seen.all("img")][3].startswith("gone.jpg: cannot be read (")
    tile = thumbnail(result.hits[2].path, 480)
    assert tile.size is None
    assert tile.image.size == (480, 360)
    assert tile.image.getpixel((5, 5)) == (214, 213, 210)


def test_page_of_nothing_says_so(result: Answer) -> None:
    seen = Page(page(Answer("q", result.picture, None, (), {}, 0.1, 10)))
    text = " ".join(seen.words)
    assert "No hits" in text
    assert "the whole picture" in text
    assert not seen.all("li")
    assert not seen.all("rect")


def test_several_hits_of_an_image_are_counted_as_such(tmp_path: Path) -> None:
    hits = tuple(Hit(i + 1, f"{i // 2}.jpg", tmp_path / "x", 1.0, (i, 0, i + 5, 9)) for i in range(3))
    counts = [Answer("q", tmp_path / "q", None, hits[:n], {}, 0.1, 1000).counts for n in range(4)]
    assert counts == ["no hits", "1 hit", "2 hits in 1 image", "3 hits in 2 images"]
    assert Answer("q", tmp_path / "q", None, hits, {}, 0.1, 1000).summary == (
        "3 hits in 2 images among 1,000 images in 0.10 s"
    )


def test_pages_of_many_hits_have_smaller_thumbnails(tmp_path: Path) -> None:
    path = picture(tmp_path / "x.jpg", (1000, 500))

    def width(n: int) -> int:
        hits = tuple(Hit(i + 1, "x.jpg", path, 1.0, None) for i in range(n))
        return int(Page(page(Answer("q", path, None, hits, {}, 0.1, n))).all("img")[-1]["width"])

    assert (width(1), width(60), width(240)) == (480, 480, 240)

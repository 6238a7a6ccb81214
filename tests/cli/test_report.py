"""What people are shown of a result: table, sheet, JSON, and the line between the found and the rest."""

from __future__ import annotations

import csv
import io
import json
import os
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from rich.cells import cell_len
from rich.console import Console

from instsearch_cli.engine.answer import Answer, Hit, View
from instsearch_cli.errors import InstsearchError
from instsearch_cli.images import shrink
from instsearch_cli.report import copy_hits, print_table, to_csv, to_json, write_page, write_sheet
from instsearch_cli.report.page import page
from instsearch_cli.report.pictures import MARK, clipped, font, mark, thumbnail
from instsearch_cli.report.results import score_texts, tail
from instsearch_cli.report.sheet import GAP, Tile, framed, rows_of
from instsearch_cli.report.table import plain_table, rich_table
from plain_pictures import picture
from shown_answer import Page, result

__all__ = ["result"]  # fixtures


# JSON and text


def test_json_has_boxes_as_they_are_given_on_the_command_line(result: Answer) -> None:
    written = json.loads(json.dumps(to_json(result)))
    assert written["schema"] == 2
    view = {"image": "query.jpg", "size": [800, 600], "box": [100, 50, 200, 200]}
    assert written["query"] == {**view, "views": [view], "against": []}
    assert (written["line"], written["dropped"]) == (None, 0)
    assert written["found"] is True
    assert [hit["box"] for hit in written["hits"]] == [[10, 20, 100, 50], None, [0, 0, 5, 5]]
    assert [hit["boxes"] for hit in written["hits"]] == [[[10, 20, 100, 50]], [], [[0, 0, 5, 5]]]
    assert [hit["size"] for hit in written["hits"]] == [[400, 300], [300, 400], None]
    assert [hit["path"] for hit in written["hits"]] == [str(hit.path) for hit in result.hits]


def test_csv_has_a_line_a_hit_and_nothing_where_nothing_is_known(result: Answer) -> None:
    titles, *lines = csv.reader(io.StringIO(to_csv(result)))
    assert titles == ["rank", "score", "image", "path", "x", "y", "w", "h", "width", "height"]
    assert [line[:3] + line[4:] for line in lines] == [
        ["1", "12.5", "a/one.jpg", "10.0", "20.0", "100.0", "50.0", "400", "300"],
        ["2", "6.25", "two.png", "", "", "", "", "300", "400"],
        ["3", "0.0", "gone.jpg", "0.0", "0.0", "5.0", "5.0", "", ""],
    ]


def test_copies_keep_what_is_there_and_name_what_is_not(result: Answer, tmp_path: Path) -> None:
    folder = tmp_path / "new" / "copies"
    n, failed = copy_hits(result, folder)
    assert n == 2
    assert len(failed) == 1
    assert "gone.jpg: No such file" in failed[0]
    assert sorted(p.name for p in folder.iterdir()) == ["1-one.jpg", "2-two.png"]
    assert (folder / "1-one.jpg").read_bytes() == result.hits[0].path.read_bytes()
    with pytest.raises(InstsearchError, match="is not empty: choose a new"):
        copy_hits(result, folder)


def test_plain_table_is_aligned_and_keeps_whole_names(result: Answer) -> None:
    assert plain_table(result).splitlines() == [
        "rank  score   box x,y,w,h  image",
        "   1  12.50  10,20,100,50  a/one.jpg",
        "   2   6.25             -  two.png",
        "   3   0.00       0,0,5,5  gone.jpg",
    ]


def test_output_that_is_no_terminal_is_plain_and_takes_any_name(result: Answer) -> None:
    nasty = os.fsdecode(b"caf\xe9\n\x1b[31mred.jpg")
    hits = (Hit(1, nasty, Path(nasty), 0.5, None), Hit(2, "Ω" * 300, Path("x"), 0.25, None))
    raw = io.BytesIO()
    stream = io.TextIOWrapper(raw, encoding="ascii", newline="\n")
    print_table(Answer("q", Path("q"), None, hits, {}, 1.0, 2), Console(file=stream, width=40))
    stream.flush()
    lines = raw.getvalue().decode("ascii").splitlines()
    assert lines[1].endswith(r"0.5000            -  caf\xe9\n\x1b[31mred.jpg")
    assert lines[2].endswith("?" * 300)
    assert lines[3] == "2 hits among 2 images in 1.00 s"
    assert lines[4].startswith("scores are no probabilities: ")


def test_no_hits_is_said(capsys: pytest.CaptureFixture[str]) -> None:
    print_table(Answer("q", Path("q"), None, (), {}, 0.5, 1))
    assert capsys.readouterr().out == "no hits among 1 image in 0.50 s\n"


@given(st.text(max_size=60), st.integers(20, 200))
def test_terminal_table_fits_and_keeps_the_end_of_names(name: str, width: int) -> None:
    hits = (Hit(1, name + "/last.jpg", Path("x"), 0.5, (1, 2, 3, 4)),)
    out = io.StringIO()
    console = Console(file=out, width=max(width, 60), force_terminal=True, color_system=None)
    console.print(rich_table(Answer("q", Path("q"), None, hits, {}, 1.0, 1), console.width))
    row = [line.rstrip() for line in out.getvalue().split("\n") if "0.5000" in line]
    assert len(row) == 1
    assert cell_len(row[0]) <= console.width
    assert row[0].endswith("last.jpg")
    assert "1,2,2,2" in row[0]


def test_tail_keeps_the_end() -> None:
    assert tail("abcdef", 6) == "abcdef"
    assert tail("abcdef", 4) == "…def"


def test_scores_share_their_decimals() -> None:
    texts = [
        score_texts(tuple(Hit(1, "", Path(), s, None) for s in scores))
        for scores in ([0.5, 1], [57, 9], [1234.5])
    ]
    assert texts == [["0.5000", "1.0000"], ["57.00", "9.00"], ["1234"]]


# Probabilities, several views, and what the object is not


@pytest.fixture
def judged(result: Answer) -> Answer:
    """Three hits of 0.9, 0.5 and 0.0001."""
    hits = tuple(replace(hit, score=p) for hit, p in zip(result.hits, (0.9, 0.5, 1e-4), strict=True))
    return replace(result, hits=hits, probability=True, best=0.9)


def test_a_line_parts_the_found_from_the_rest(judged: Answer, tmp_path: Path) -> None:
    assert (judged.line, len(judged.above), len(judged.below)) == (0.5, 2, 1)
    assert judged.title == "2 found; the nearest below the line"
    assert judged.summary == "2 found among 1,234 images in 0.04 s; the nearest below the line"
    assert [line[:15] for line in plain_table(judged).splitlines()[2:]] == [
        "   2  0.5000   ",
        "-- below 0.5 --",
        "   3  0.0001   ",
    ]
    text = page(judged)
    assert text.index("two.png</span>") < text.index("below 0.5</p>") < text.index("gone.jpg</span>")
    assert " ".join(Page(text).words).count("2 found; the nearest below the line") == 1
    out = io.StringIO()
    print_table(judged, Console(file=out, width=80, force_terminal=True, color_system=None))
    rows = [line.strip() for line in out.getvalue().splitlines()]
    line = rows.index("-- below 0.5 --")
    assert (rows[line - 1][0], rows[line + 1][0]) == ("2", "3")

    found = replace(judged, hits=judged.hits[:2])
    assert found.title == "2 found"
    assert "below" not in page(found)
    with_line, without = (sheet_lines(answer, tmp_path) for answer in (judged, found))
    assert (with_line, without) == (1, 0)


def sheet_lines(answer: Answer, folder: Path) -> int:
    """How many lines in the colour of boxes go through most of the sheet's width."""
    write_sheet(answer, folder / "sheet.png")
    with Image.open(folder / "sheet.png") as sheet:
        pink = (np.asarray(sheet.convert("RGB")) == MARK).all(2).sum(1) > 1000
    return int((np.diff(pink.astype(int)) == 1).sum())


def test_nothing_above_the_line_is_no_claim_that_there_is_nothing(judged: Answer) -> None:
    none = replace(judged, hits=judged.hits[2:], best=1e-4)
    assert none.title == "nothing reached 0.5; the best is 0.0001"
    assert none.summary == (
        "not found: nothing reached 0.5; the best is 0.0001 among 1,234 images in 0.04 s; the nearest below the line"
    )
    assert "<h1>Nothing reached 0.5; the best is 0.0001</h1>" in page(none)
    left_out = replace(none, hits=(), near=none.hits, min_score=0.7)
    assert left_out.title == "nothing reached 0.7; the best is 0.0001"
    assert "gone.jpg" in plain_table(left_out)
    assert not left_out.found
    for answer in (none, left_out):
        assert "no image" not in page(answer) + plain_table(answer) + answer.summary


def test_scores_that_are_no_probabilities_have_no_line(result: Answer) -> None:
    assert (result.line, result.above, result.below) == (None, result.hits, ())
    assert "below" not in plain_table(result)
    assert result.title == "3 hits"
    assert "Scores are no probabilities: higher is better" in page(result)


def test_views_and_what_it_is_not_are_shown_with_the_query(judged: Answer, tmp_path: Path) -> None:
    other = View("also.jpg", picture(tmp_path / "also.jpg", (200, 100)), (5.0, 6.0, 55.0, 36.0), (200, 100))
    unlike = View("unlike.jpg", picture(tmp_path / "unlike.jpg"), None, (400, 300))
    hits = (judged.hits[0], replace(judged.hits[1], view=1))
    answer = replace(judged, hits=hits, also=(other,), against=(unlike,), dropped=2)
    assert [view.name for view in answer.views] == ["query.jpg", "also.jpg"]
    told = "2 hits agree better with what was given as not the object"
    assert answer.notes == (told,)
    assert replace(answer, dropped=1).notes == ("1 hit agrees" + told.removeprefix("2 hits agree"),)
    seen = Page(page(answer))
    words = " ".join(seen.words)
    for part in ("also.jpg", "--box 5,6,50,30 of 200 x 100", "And not", "unlike.jpg", told):
        assert part in words
    assert (
        words.index("Looking for") < words.index("also.jpg") < words.index("And not") < words.index("unlike")
    )
    boxes = seen.all("rect", **{"class": "box"})
    assert [[float(a[k]) for k in ("x", "y", "width", "height")] for a in boxes[:2]] == [
        [100, 50, 200, 200],
        [5, 6, 50, 30],
    ]
    assert [line.split()[-2:] for line in plain_table(answer).splitlines()] == [
        ["view", "image"],
        ["1", "a/one.jpg"],
        ["2", "two.png"],
    ]
    written = to_json(answer)
    assert written["query"]["views"][1] == {"image": "also.jpg", "size": [200, 100], "box": [5, 6, 50, 30]}
    assert written["query"]["against"] == [{"image": "unlike.jpg", "size": [400, 300], "box": None}]
    assert (written["dropped"], [hit["view"] for hit in written["hits"]]) == (2, [0, 1])
    write_sheet(answer, tmp_path / "sheet.png")
    emptied = replace(answer, hits=(), best=None, refused=frozenset({3}))
    assert emptied.summary.startswith("no hits among ")
    assert emptied.notes == ("every image agrees as well with what was given as not the object",)


# The sheet


def test_sheet_is_written(result: Answer, tmp_path: Path) -> None:
    write_sheet(result, tmp_path / "sheet.png")
    with Image.open(tmp_path / "sheet.png") as sheet:
        assert sheet.format == "PNG"
        assert sheet.width == 1760
        pixels = np.asarray(sheet.convert("RGB"))
    assert (pixels == MARK).all(2).sum() > 1000


@given(st.lists(st.floats(0.56, 2.6), min_size=1, max_size=40))
def test_rows_hold_all_tiles_in_order_and_fill_the_width(ratios: list[float]) -> None:
    hit, blank = Hit(1, "", Path(), 0.0, None), thumbnail(Path("no such file"), 64)
    tiles = [Tile(hit, "", blank, ratio) for ratio in ratios]
    rows = rows_of(tiles, 1200)
    assert [t.ratio for _, row in rows for t in row] == ratios
    for height, row in rows[:-1]:
        assert sum(t.ratio for t in row) * height + GAP * (len(row) - 1) == pytest.approx(
            1200, abs=len(row) * 1.5
        )
    last = sum(t.ratio for t in rows[-1][1]) * rows[-1][0] + GAP * (len(rows[-1][1]) - 1)
    assert last <= 1200 + 2 * len(rows[-1][1])


def test_box_lies_where_it_belongs(tmp_path: Path) -> None:
    thumb = thumbnail(picture(tmp_path / "x.png", (800, 400), "#000000"), 200)
    assert thumb.image.size == (200, 100)
    mark(thumb.image, (200, 100, 600, 300), (800, 400), width=1)
    pixels = np.asarray(thumb.image)
    rows, columns = np.nonzero((pixels == MARK).all(2))
    assert (columns.min(), rows.min(), columns.max(), rows.max()) == (50, 25, 149, 74)
    assert tuple(pixels[50, 100]) == (0, 0, 0)
    mark(thumb.image, (-50, -50, 9000, 9000), (800, 400))


def test_a_frame_that_does_not_fit_is_filled_up_around_the_picture(tmp_path: Path) -> None:
    thumb = thumbnail(picture(tmp_path / "wide.png", (1000, 100), "#ff0000"), 500)
    frame = np.asarray(framed(thumb, None, 260, 100))
    red = (frame == (255, 0, 0)).all(2)
    assert red[50].all()
    assert red.any(1).sum() == 26


@given(st.text(max_size=80), st.integers(30, 300), st.sampled_from(["start", "end"]))
def test_clipped_text_fits(text: str, width: int, keep: str) -> None:
    cut = clipped(text, font(16), width, keep)
    assert font(16).getlength(cut) <= width
    assert cut == text.encode("utf-8", "replace").decode() or "…" in cut


@pytest.mark.parametrize("write", [write_page, write_sheet])
def test_what_cannot_be_written_is_one_line(write, result: Answer, tmp_path: Path) -> None:
    with pytest.raises(InstsearchError, match=r"cannot write .*No such file or directory"):
        write(result, tmp_path / "nowhere" / "out.png")


@given(st.integers(1, 5000), st.integers(1, 5000), st.integers(1, 1000))
def test_shrink_never_enlarges(w: int, h: int, side: int) -> None:
    a, b = shrink(w, h, side)
    assert 1 <= a <= max(w, 1)
    assert 1 <= b <= max(h, 1)
    assert max(a, b) <= side
    assert max(a, b) == min(side, max(w, h))

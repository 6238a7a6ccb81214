"""Labels that differ in one part, through the program: index, then query with reranker aligned."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import jsonschema
import numpy as np
import PIL.Image
import pytest

import instsearch

Cli = Callable[..., Any]
TRUE, TWINS = (1, 4, 7), (2, 5, 8)
ALIGNED = ("--rerank", "verified-qe", "--rerank", "aligned")


def texture(seed: int, side: int, blur: float) -> np.ndarray:
    noise = np.random.default_rng(seed).integers(0, 256, (side, side, 3), np.uint8)
    smooth = cv2.GaussianBlur(noise, (0, 0), blur)
    return np.asarray(cv2.normalize(smooth, None, 0, 255, cv2.NORM_MINMAX))


def photograph(path: Path, label: np.ndarray, i: int) -> None:
    """A label turned by 4 i degrees, some of it smaller, on a faint ground."""
    turn = cv2.getRotationMatrix2D((90, 90), 4 * i, 1 - 0.02 * i)
    turn[:, 2] += 60, 50
    pixels = 90 + texture(i, 320, 4) // 4
    cv2.warpAffine(label, turn, (320, 320), pixels, borderMode=cv2.BORDER_TRANSPARENT)
    path.parent.mkdir(exist_ok=True)
    PIL.Image.fromarray(pixels).save(path)


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("labels")
    label = texture(100, 180, 2)
    twin = label.copy()
    twin[50:130, 50:130] = texture(101, 80, 2)
    for i in range(10):
        shown = label if i in TRUE else twin if i in TWINS else texture(i + 50, 180, 2)
        photograph(folder / "c" / f"{i}.png", shown, i)
    photograph(folder / "q.png", label, 0)
    return folder


@pytest.fixture(scope="module")
def index(place: Path) -> Path:
    photographs = place / "kept"
    shutil.copytree(place / "c", photographs)
    PIL.Image.new("RGB", (320, 320), (90, 90, 90)).save(photographs / "even.png")
    with instsearch.create(place / "kept-index") as made:
        made.index(photographs, preset="sift")
    return place / "kept-index"


def test_show_draws_a_hit_beside_the_query(cli: Cli, place: Path, index: Path, tmp_path: Path) -> None:
    ask = f"{place / 'q.png'}:60,50,180,180"
    found = {}
    for i in (1, 2):
        out = tmp_path / f"{i}.png"
        found[i] = cli("show", f"{i}.png", "--index", index, "--beside", ask, "-o", out, "--json").json
        jsonschema.validate(found[i], instsearch.schema("show"))
        with PIL.Image.open(out) as drawn:
            assert drawn.width >= 2 * 576
            assert (np.asarray(drawn.convert("RGB")) == (230, 30, 30)).all(
                axis=-1
            ).sum() > 100  # the legend, at least
    assert found[1]["agreement"] > 0.85 > found[2]["agreement"] > 0.4
    assert found[1]["disagreement"] < 0.02 < 0.05 < found[2]["disagreement"]
    said = cli("show", "2.png", "--index", index, "--beside", ask, "-o", tmp_path / "o.png").out
    assert said == f"wrote {tmp_path / 'o.png'}: {found[2]['text']}\n"


def test_the_page_unfolds_hits_beside_the_query(place: Path, index: Path, tmp_path: Path) -> None:
    with instsearch.open(index) as opened:
        answer = opened.query(place / "q.png", (60, 50, 180, 180), k=4)
        found = opened.beside(place / "q.png", (60, 50, 180, 180), answer[0].path)
    assert found is not None
    instsearch.write_page(answer, tmp_path / "plain.html")
    instsearch.write_page(answer, tmp_path / "hits.html", {answer[0].rank: found})
    plain, page = ((tmp_path / name).read_text("utf-8") for name in ("plain.html", "hits.html"))
    assert "<details>" not in plain
    assert page.count("<details>") == 1
    first, unfolded = page.index('<ol class="hits">'), page.index("<details>")
    assert page[first:unfolded].count("<li") == 1
    assert f"<p>{found.text}</p></details>" in page


def test_what_cannot_be_shown_beside_the_query_is_said(
    cli: Cli, place: Path, index: Path, tmp_path: Path
) -> None:
    ask = f"{place / 'q.png'}:60,50,180,180"
    show = ("show", "--index", index, "-o", tmp_path / "o.png", "--beside")
    assert "even.png beside" in (err := cli(*show, ask, "even.png", status=1).err)
    assert "cannot be aligned" in err
    assert "no image 'x.png'" in cli(*show, ask, "x.png", status=1).err
    assert "covers no part" in cli(*show, f"{place / 'q.png'}:900,50,18,18", "1.png", status=1).err
    assert (
        "--beside takes IMAGE or IMAGE:x,y,w,h"
        in cli(*show, f"{place / 'q.png'}:1,2,3", "1.png", status=2).err
    )
    assert not (tmp_path / "o.png").exists()
    with (
        instsearch.open(index) as opened,
        pytest.raises(instsearch.UsageError, match="compares hits with the query"),
    ):
        opened.beside(place / "q.png", (60, 50, 180, 180), "1.png", rerank=["verified-qe"])


def test_a_hit_that_no_keypoints_align_is_shown_where_it_was_found(place: Path, index: Path) -> None:
    ask = (place / "q.png", (60, 50, 180, 180), "1.png")
    with instsearch.open(index) as opened:
        by_keypoints = opened.beside(*ask)
        by_box = opened.beside(*ask, options=["rerank.aligned.min_inliers=100000"])
    assert by_keypoints is not None
    assert by_box is not None
    assert by_box.agreement == pytest.approx(by_keypoints.agreement, abs=0.1)


def test_twins_come_after_the_object_and_a_photograph_that_is_gone_stays(cli: Cli, place: Path) -> None:
    index = place / "index"
    cli("index", place / "c", "--index", index, "--preset", "sift", "--quiet")
    ask = ("query", place / "q.png", "--box", "60,50,180,180", "--index", index, "--json")
    before = cli(*ask, "--rerank", "verified-qe").json["hits"]
    hits = cli(*ask, *ALIGNED).json["hits"]
    scores = {int(Path(hit["image"]).stem): hit["score"] for hit in hits}
    assert {*TRUE, *TWINS} <= {*scores}
    assert min(scores[i] for i in TRUE) > max(scores[i] for i in TWINS) + 1
    (place / "c" / "5.png").rename(place / "5.png")
    gone = cli(*ask, *ALIGNED).json["hits"]
    was, now = ({hit["image"]: hit["score"] for hit in some} for some in (before, gone))
    assert now["5.png"] == was["5.png"]
    assert now["2.png"] == pytest.approx(scores[2])


def test_query_writes_a_page_with_what_was_compared(
    cli: Cli, place: Path, index: Path, tmp_path: Path
) -> None:
    ask = ("query", place / "q.png", "--index", index)
    cli(*ask, "--html", tmp_path / "hits.html")
    page = (tmp_path / "hits.html").read_text("utf-8")
    found = cli(*ask, "--json").json["hits"]
    assert 0 < page.count("<details>") <= min(6, sum(hit["score"] >= 0.5 for hit in found))
    cli(*ask, "--rerank", "none", "--html", tmp_path / "plain.html")
    assert "<details>" not in (tmp_path / "plain.html").read_text("utf-8")

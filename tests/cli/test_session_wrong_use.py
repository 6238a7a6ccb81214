"""Wrong use of the Python interface: what is told, in the words of the command line."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import PIL.Image
import pytest

import instsearch
from instsearch import Index, InstsearchError, UsageError
from instsearch_cli.engine.answer import Wish
from instsearch_cli.engine.several import as_one
from opened_index import index

__all__ = ["index"]  # fixtures

Cli = Callable[..., Any]


def test_a_closed_index_answers_nothing(index: Index, photos: Path) -> None:
    asked = {"id": "q", "image": "photos/a/1.png", "positives": ["photos/a/1.png"]}
    manifest = {"name": "m", "images": ["photos/a/1.png"], "queries": [asked]}
    (photos.parent / "m.json").write_text(json.dumps(manifest))
    with index:
        pass
    for ask in (
        lambda: index.query(photos / "a" / "1.png"),
        lambda: index.images,
        index.info,
        lambda: len(index),
        lambda: next(index.answers(photos / "a" / "1.png")),
        lambda: as_one([index, index]).query(photos / "a" / "1.png"),
        lambda: instsearch.pairs(index),
        lambda: instsearch.adapt(index, photos / "pairs.csv"),
        lambda: instsearch.evaluate(index, photos.parent / "m.json"),
    ):
        with pytest.raises(InstsearchError, match="is closed: open it again"):
            ask()


@pytest.mark.parametrize(
    ("picture", "options", "message"),
    [
        (3, {}, "a picture is a path, a picture of Pillow's or an array, not int"),
        (np.zeros((4, 4, 3)), {}, r"u8\[H, W, 3\] or u8\[H, W\], not float64\[4, 4, 3\]"),
        ("a/1.png", {"box": (1, 2, 3)}, "a box is x, y, width and height"),
        ("a/1.png", {"box": "1,2,3,4"}, "a box is x, y, width and height"),
        ("a/1.png", {"box": (1, 2, 0, 4)}, "width and height above 0"),
        ("a/1.png", {"k": 0}, "k is a whole number of at least 1, not 0"),
        ("a/1.png", {"k": 2.5}, "k is a whole number"),
        ("a/1.png", {"k": 200_000, "per_image": 0}, "k is at most 100,000 where an image may give several"),
        ("a/1.png", {"min_score": "0.3"}, "min_score is a number"),
        ("a/1.png", {"min_score": True}, "min_score is a number"),
        ("a/1.png", {"min_score": math.inf}, "min_score is a number"),
        ("a/1.png", {"min_score": 10**400}, "min_score is a number"),
        ("a/1.png", {"box": (1, 2, 3, 10**400)}, "a box is x, y, width and height"),
        ("a/1.png", {"pipeline": ["sift"]}, "a pipeline is given by its name, .* not as list"),
        ("a/1.png", {"per_image": -1}, "per_image is a whole number of at least 0"),
        ("a/1.png", {"rernk": ["aqe"]}, "no option 'rernk'. Did you mean 'rerank'"),
        ("a/1.png", {"weighting": "flat"}, "weighting cannot be chosen for a question: index with it"),
        ("a/1.png", {"rerank": "aqe"}, r'rerank is a list of texts, \["aqe"\] say'),
        ("a/1.png", {"rerank": ["aqee"]}, "no rerank is called 'aqee'. Did you mean 'aqe'"),
        ("a/1.png", {"options": ["encoder.pwer=2"]}, "encoder has no option 'pwer'. Did you mean 'power'"),
    ],
)
def test_wrong_use_is_a_usage_error(
    index: Index, photos: Path, picture: Any, options: dict[str, Any], message: str
) -> None:
    with pytest.raises(UsageError, match=message):
        index.query(photos / picture if isinstance(picture, str) else picture, **options)


def test_what_is_wrong_is_told_in_the_words_of_the_command_line(
    cli: Cli, index: Index, photos: Path, tmp_path: Path
) -> None:
    picture = photos / "a" / "1.png"
    (tmp_path / "text.png").write_text("no picture")

    def both(call: Callable[[], Any], *arguments: Any) -> None:
        with pytest.raises(InstsearchError) as raised:
            call()
        assert cli(*arguments, status=raised.value.exit_status).err == f"error: {raised.value}\n"

    query = ("query", picture, "--index", index.path)
    both(lambda: index.query(picture, pipeline="cels"), *query, "--pipeline", "cels")
    both(lambda: index.query(picture, (900, 900, 5, 5)), *query, "--box", "900,900,5,5")
    both(lambda: index.query(tmp_path / "text.png"), "query", tmp_path / "text.png", "--index", index.path)
    both(lambda: instsearch.open(tmp_path / "nowhere"), "info", "--index", tmp_path / "nowhere")
    both(lambda: index.remove("nothing.png"), "remove", "nothing.png", "--index", index.path)
    both(lambda: index.index(encoder="centerd"), "index", "--index", index.path, "--encoder", "centerd")
    both(lambda: index.query(picture, per_image=2), *query, "--per-image", "2")


def test_layers_and_images_that_are_not_there(index: Index) -> None:
    with pytest.raises(InstsearchError, match=r"no image 'a/2\.png' in .* Did you mean 'b/2"):
        index.features("a/2.png")
    with pytest.raises(InstsearchError, match="pipeline 'cells-centred-flat' makes no regions"):
        index.regions("a/1.png")
    with pytest.raises(UsageError, match=r"no layer is called 'code'\. Did you mean 'codes'"):
        index.layer("code")
    with pytest.raises(InstsearchError, match="makes no local; it makes weights, codes"):
        index.layer("local")


def test_wrong_types_are_usage_errors(index: Index, photos: Path) -> None:
    wrong: Any = 3
    calls: list[Callable[[], Any]] = [
        lambda: index.add([wrong]),
        lambda: index.add(wrong),
        lambda: index.remove(wrong),
        lambda: index.features(wrong),
        lambda: index.export("codes", wrong),
        lambda: index.query_many("a.jpg"),
        lambda: index.query_many(wrong),
        lambda: index.query_many([wrong]),
        lambda: index.query(photos / "a" / "1.png", options=wrong),
        lambda: instsearch.open(wrong),
        lambda: instsearch.evaluate(index, wrong),
        lambda: instsearch.plugins("no-such"),
        lambda: instsearch.preset("no-such"),
        lambda: index.features("a/1.png", pipeline=wrong),
        lambda: index.index(pipeline=wrong),
        lambda: instsearch.query(wrong, photos / "a" / "1.png"),
        lambda: instsearch.query(index, photos / "a" / "1.png"),
        lambda: instsearch.query([index.path], photos / "a" / "1.png"),
        lambda: instsearch.query_many([str(index.path)], []),
        lambda: instsearch.pairs(wrong),
        lambda: instsearch.adapt(wrong, "pairs.csv"),
        lambda: instsearch.show(wrong, "a/1.png", "out.png"),
        lambda: instsearch.write_page(index.query(photos / "a" / "1.png"), wrong),
        lambda: instsearch.copy_hits(index.query(photos / "a" / "1.png"), wrong),
    ]
    for call in calls:
        with pytest.raises(UsageError):
            call()


def test_numbers_of_numpys_are_numbers(index: Index, photos: Path) -> None:
    wish = Wish(np.int8(100), np.int8(1), np.float32(0.5))
    assert [type(value) for value in vars(wish).values()] == [int, int, float]
    answer = index.query(photos / "a" / "1.png", k=np.int8(2), min_score=np.float32(-9))
    assert json.loads(json.dumps(instsearch.to_json(answer)))["threshold"] == -9
    assert len(answer) == 2


def test_what_is_of_one_question_is_given_with_it(index: Index, photos: Path) -> None:
    picture = photos / "a" / "1.png"
    with pytest.raises(UsageError, match="against is of one question: give it with each"):
        index.query_many([picture], against=[picture])
    with pytest.raises(UsageError, match="also is of one question"):
        instsearch.query_many([index], [picture], also=[picture])


def test_a_picture_that_is_closed_or_cut_off(index: Index, photos: Path, tmp_path: Path) -> None:
    (tmp_path / "cut.png").write_bytes((photos / "a" / "1.png").read_bytes()[:200])
    with PIL.Image.open(photos / "a" / "1.png") as closed, PIL.Image.open(tmp_path / "cut.png") as cut:
        closed.close()
        for picture in (closed, cut):
            with pytest.raises(UsageError, match="give one that is open, or its file"):
                index.query(picture)

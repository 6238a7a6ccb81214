"""Asking with several views and with what the object is not: the command line, Python, and what bad input gets."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import PIL.Image
import pytest
from hypothesis import given
from hypothesis import strategies as st

import instsearch
from instsearch import InstsearchError, UsageError
from instsearch_cli.boxes import parse_view
from instsearch_cli.engine.query import Engine
from schema_check import valid

Cli = Callable[..., Any]
FRONT, BACK, LOOKALIKE = {"1.png", "4.png"}, {"2.png", "7.png"}, {"5.png", "8.png"}
BOX = "30,20,100,100"
XYWH = (30, 20, 100, 100)


def texture(seed: int, size: tuple[int, int], blur: float = 1.5) -> np.ndarray:
    noise = np.random.default_rng(seed).integers(0, 256, (size[1], size[0], 3), np.uint8)
    return np.asarray(cv2.normalize(cv2.GaussianBlur(noise, (0, 0), blur), None, 0, 255, cv2.NORM_MINMAX))


def scene(path: Path, seed: int, thing: np.ndarray, at: tuple[int, int] = (30, 20)) -> None:
    """A faint background with something on it."""
    pixels = 90 + texture(seed, (240, 180), 4) // 4
    pixels[at[1] : at[1] + thing.shape[0], at[0] : at[0] + thing.shape[1]] = thing
    path.parent.mkdir(exist_ok=True)
    PIL.Image.fromarray(pixels).save(path)


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Ten scenes in ``c``: the front of a thing, its back, or what has half of its front; and pictures to ask with."""
    folder = tmp_path_factory.mktemp("views")
    front, back, lookalike = texture(100, (100, 100)), texture(101, (100, 100)), texture(102, (100, 100))
    lookalike[:, :50] = front[:, :50]
    for i in range(10):
        name = f"{i}.png"
        seen = {name in FRONT: front, name in BACK: back, name in LOOKALIKE: lookalike}.get(True)
        scene(folder / "c" / name, i, texture(i + 50, (100, 100)) if seen is None else seen, (10 * i, 5 * i))
    for name, thing in (("front", front), ("back", back), ("lookalike", lookalike)):
        scene(folder / "q" / f"{name}.png", 20, thing)
    both = np.concatenate(
        [np.asarray(PIL.Image.open(folder / "q" / f"{n}.png")) for n in ("front", "back")], 1
    )
    PIL.Image.fromarray(both).save(folder / "q" / "both.png")
    PIL.Image.fromarray(np.full((180, 240, 3), 90, np.uint8)).save(folder / "q" / "blank.png")
    (folder / "q" / "bad.png").write_bytes(b"no picture")
    return folder


@pytest.fixture
def index(cli: Cli, place: Path) -> Path:
    path = place / "index"
    if not path.exists():
        chosen = (
            "--preset",
            "sift",
            "--searcher",
            "inverted",
            "--rerank",
            "geometric",
            "--rerank",
            "verdict",
        )
        cli("index", place / "c", "--index", path, *chosen, "--quiet")
    return path


def found(told: dict[str, Any]) -> set[str]:
    return {hit["image"] for hit in told["hits"] if hit["score"] >= 0.5}


# -- several views ---------------------------------------------------------------------------------------


def test_several_views_find_what_each_finds(cli: Cli, place: Path, index: Path) -> None:
    q = place / "q"
    front, back = (
        valid("query", cli("query", q / f"{side}.png", "--box", BOX, "--index", index, "--json").out)
        for side in ("front", "back")
    )
    assert FRONT <= found(front) <= FRONT | LOOKALIKE
    assert found(back) == BACK
    ask = ("query", q / "front.png", "--box", BOX, "--also", f"{q / 'back.png'}:{BOX}", "--index", index)
    told = valid("query", cli(*ask, "--json").out)
    assert found(told) == found(front) | BACK
    alone = [{hit["image"]: hit for hit in one["hits"]} for one in (front, back)]
    for hit in told["hits"]:
        best = max((one[hit["image"]] for one in alone), key=lambda each: each["score"])
        assert hit["score"] == best["score"]
        of_view = alone[hit["view"]][hit["image"]]
        assert (hit["score"], hit["box"]) == (of_view["score"], of_view["box"])
    assert [Path(view["image"]).name for view in told["query"]["views"]] == ["front.png", "back.png"]
    plain = cli(*ask)
    assert "\nalso: " in plain.err
    assert " view  image\n" in plain.out


def test_several_boxes_of_a_picture_are_views(cli: Cli, place: Path, index: Path, tmp_path: Path) -> None:
    both = place / "q" / "both.png"
    ask = ("query", both, "--box", BOX, "--box", "270,20,100,100", "--index", index)
    told = valid(
        "query", cli(*ask, "--json", "--html", tmp_path / "p.html", "--sheet", tmp_path / "s.png").out
    )
    assert found(told) >= FRONT | BACK
    assert [view["box"] for view in told["query"]["views"]] == [[30, 20, 100, 100], [270, 20, 100, 100]]
    written = (tmp_path / "p.html").read_text("utf-8")
    assert "--box 30,20,100,100 of 480 x 180" in written
    assert "--box 270,20,100,100 of 480 x 180" in written
    with instsearch.open(index) as opened:
        answer = opened.query(both, [XYWH, (270, 20, 100, 100)])
        assert [hit.score for hit in answer] == [hit["score"] for hit in told["hits"]]
        once = opened.query(both, XYWH)
        assert opened.query(both, [XYWH]).hits == once.hits
        assert opened.query(both, np.array([XYWH])).hits == once.hits
        assert opened.query(both, [XYWH, XYWH], also=[(both, XYWH)]).hits == once.hits
        (again,) = opened.query_many([(both, [XYWH, (270, 20, 100, 100)])])
        assert again.hits == answer.hits


def test_views_go_with_any_scores(cli: Cli, tiny: tuple[str, ...], photos: Path, tmp_path: Path) -> None:
    cli("index", photos, "--index", tmp_path / "i", *tiny)
    ask = ("query", photos / "a/1.png", "--also", photos / "b/2.png", "--index", tmp_path / "i")
    told = valid("query", cli(*ask, "--json").out)
    assert {hit["image"] for hit in told["hits"][:2]} == {"a/1.png", "b/2.png"}
    assert {hit["image"]: hit["view"] for hit in told["hits"][:2]} == {"a/1.png": 0, "b/2.png": 1}
    one = ("query", photos / "a/1.png", "--index", tmp_path / "i", "--json")
    alone, without = (valid("query", cli(*one, *more).out) for more in ((), ("--not", photos / "b/2.png")))
    assert "b/2.png" not in {hit["image"] for hit in without["hits"]}
    assert without["dropped"] == len(alone["hits"]) - len(without["hits"]) > 0
    assert "scores are no probabilities" in cli(*ask).out


# -- what it is not --------------------------------------------------------------------------------------


def elsewhere(path: Path) -> np.ndarray:
    """The picture with another look outside of BOX."""
    pixels = np.array(PIL.Image.open(path))
    pixels[150:] = 0
    return pixels


@pytest.mark.parametrize("box", [XYWH, None])
def test_what_is_asked_for_is_not_what_it_is_not_however_it_is_given(
    index: Path, place: Path, tmp_path: Path, box: Any
) -> None:
    front = place / "q" / "front.png"
    copy = tmp_path / "copy.png"
    copy.write_bytes(front.read_bytes())
    pixels = np.array(PIL.Image.open(front))
    whole = (0, 0, *pixels.shape[1::-1])
    ways = [copy, str(front.parent / ".." / "q" / front.name), pixels, PIL.Image.open(front)]
    with instsearch.open(index) as opened:
        for way in ways:
            for negative in [(way, box)] if box else [way, (way, whole)]:
                with pytest.raises(UsageError, match="this is what is asked for, too"):
                    opened.query(front, box, against=[negative])
        assert opened.query(front, XYWH, against=[(elsewhere(front), XYWH)]).refused


def test_what_agrees_better_with_a_negative_is_no_hit(cli: Cli, place: Path, index: Path) -> None:
    q = place / "q"
    ask = ("query", q / "front.png", "--box", BOX, "--index", index)
    assert found(cli(*ask, "--json").json) == FRONT | LOOKALIKE
    told = valid("query", cli(*ask, "--not", f"{q / 'lookalike.png'}:{BOX}", "--json").out)
    assert found(told) == FRONT
    assert told["dropped"] == len(LOOKALIKE)
    said = cli(*ask, "--not", f"{q / 'lookalike.png'}:{BOX}")
    assert "\n2 hits agree better with what was given as not the object\n" in said.out
    assert "\nnot: " in said.err
    back = cli(
        *ask, "--not", f"{q / 'back.png'}:{BOX}", "--not", f"{q / 'lookalike.png'}:{BOX}", "--json"
    ).json
    assert found(back) == FRONT


def test_a_query_says_whether_it_is_what_the_object_is_not(
    place: Path, index: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    q, asked = place / "q", []
    steps = Engine.steps

    def seen(engine: Engine, queries: Any, *rest: Any, **more: Any) -> Any:
        asked.extend(query.against for query in queries)
        return steps(engine, queries, *rest, **more)

    monkeypatch.setattr(Engine, "steps", seen)
    with instsearch.open(index) as opened:
        opened.query(q / "front.png", XYWH, also=[q / "back.png"], against=[q / "lookalike.png"])
    assert asked == [False, False, True]


def test_sure_hits_are_told_from_each_other(cli: Cli, place: Path, index: Path) -> None:
    """Probabilities of 1 are compared by their log-odds: the look-alike's negative does not take the object."""
    q = place / "q"
    ask = ("query", q / "front.png", "--box", BOX, "--index", index, "--json")
    scores = {hit["image"]: hit["score"] for hit in cli(*ask).json["hits"]}
    assert {scores[name] for name in FRONT | LOOKALIKE} == {1}
    told = cli(*ask, "--not", f"{q / 'lookalike.png'}:{BOX}").json
    assert {hit["image"] for hit in told["hits"]} >= FRONT
    assert not {hit["image"] for hit in told["hits"]} & LOOKALIKE


def test_a_negative_that_is_the_query_is_an_error(cli: Cli, place: Path, index: Path) -> None:
    front = place / "q" / "front.png"
    ask = ("query", front, "--box", BOX, "--not", f"{front}:{BOX}", "--index", index)
    assert "this is what is asked for, too" in cli(*ask, status=2).err


def test_nothing_is_left_where_everything_agrees_with_a_negative(
    cli: Cli, place: Path, index: Path, tmp_path: Path
) -> None:
    front = place / "q" / "front.png"
    copy = tmp_path / "copy.png"
    PIL.Image.fromarray(elsewhere(front)).save(copy)
    ask = ("query", front, "--box", BOX, "--not", f"{copy}:{BOX}", "--index", index, "--rerank", "none")
    said = cli(*ask, "--html", tmp_path / "p.html", "--sheet", tmp_path / "s.png").out
    assert said.startswith("no hits among 10 images in ")
    assert "\nevery image agrees as well with what was given as not the object\n" in said
    assert "Every image agrees as well with what was given" in (tmp_path / "p.html").read_text("utf-8")
    told = valid("query", cli(*ask, "--json").out)
    assert (told["hits"], told["found"], told["best"]) == ([], False, None)
    assert "every image agrees as well" in cli(*ask, "--min-score", 0.5).out


# -- bad input -------------------------------------------------------------------------------------------


def test_a_view_with_nothing_to_describe_is_left_out(cli: Cli, place: Path, index: Path) -> None:
    front, blank = place / "q" / "front.png", place / "q" / "blank.png"
    ask = ("query", front, "--box", "200,150,20,20", "--index", index, "--json")
    plain = cli("query", front, "--box", BOX, "--index", index, "--json").json
    told = cli(*ask, "--box", BOX)
    assert told.json["hits"] == plain["hits"]
    assert told.json["query"] == plain["query"]
    (caution,) = told.json["cautions"]
    assert "box 200,150,20,20 " in caution
    assert ": left out, no keypoints in the box, " in caution
    assert "warning: " in told.err
    told = cli("query", front, "--box", BOX, "--not", blank, "--index", index, "--json").json
    assert told["hits"] == plain["hits"]
    assert "blank.png: the whole picture, 240 x 180 pixels: left out, no keypoints" in told["cautions"][0]
    err = cli(*ask[:-1], "--also", blank, status=2).err
    assert err.startswith("error: no view is left to ask for: ")
    assert cli("query", blank, "--not", front, "--index", index, status=2).err.count("\n") == 1


@pytest.mark.parametrize(
    ("flag", "value", "message"),
    [
        ("--also", "q/nowhere.png", "error: another view, {}/q/nowhere.png: cannot be read: No such file"),
        ("--not", "q/bad.png", "error: what it is not, {}/q/bad.png: not an image"),
        ("--not", "q/front.png:1,2,3", "error: --not takes IMAGE or IMAGE:x,y,w,h, "),
        ("--also", "q/front.png:1,2,0,4", "error: --also takes IMAGE or IMAGE:x,y,w,h, "),
        ("--also", "q/front.png:", "error: --also takes IMAGE or IMAGE:x,y,w,h, "),
        ("--also", "q/front.png:here", "error: --also takes IMAGE or IMAGE:x,y,w,h, "),
        ("--also", "q/front.png:900,0,10,10", "front.png: the box 900,0,10,10 covers no part of the picture"),
        ("--not", "q/front.png:0,0,0.5,0.5", "front.png: a box is x,y,w,h in pixels: 0,0,0.5,0.5 is at most"),
    ],
)
def test_what_can_be_no_view(cli: Cli, place: Path, index: Path, flag: str, value: str, message: str) -> None:
    ask = ("query", place / "q/front.png", "--index", index, flag, f"{place}/{value}")
    err = cli(*ask, status=2 if "takes IMAGE" in message or "in pixels" in message else 1).err
    assert message.format(place) in err
    assert err.count("\n") <= 2


def test_a_broken_picture_is_an_error_not_a_view_less(
    cli: Cli, place: Path, index: Path, tmp_path: Path
) -> None:
    whole = (place / "q" / "front.png").read_bytes()
    (tmp_path / "cut.png").write_bytes(whole[: len(whole) // 2])
    ask = ("query", place / "q" / "front.png", "--index", index, "--also", tmp_path / "cut.png")
    assert "cut.png: " in cli(*ask, status=2).err


def test_python_says_what_it_takes(index: Path, place: Path) -> None:
    front = place / "q" / "front.png"
    with instsearch.open(index) as opened:
        with pytest.raises(UsageError, match="also is a list of pictures, or of pairs"):
            opened.query(front, also=str(front))
        with pytest.raises(UsageError, match="against is a list of pictures"):
            opened.query(front, against=front)
        with pytest.raises(UsageError, match="no box in the list of boxes"):
            opened.query(front, [])
        with pytest.raises(UsageError, match=r"a box is x, y, width and height .* got \[1, 2\]"):
            opened.query(front, [[1, 2]])
        with pytest.raises(
            InstsearchError, match="what it is not, the picture: the box 500,0,10,10 covers no part"
        ):
            opened.query(front, against=[(np.zeros((50, 50, 3), np.uint8), (500, 0, 10, 10))])
        picture = elsewhere(front)
        answer = opened.query(front, XYWH, against=[(picture, XYWH)])
        assert answer.dropped
        assert answer.against[0].name == "the picture"
        assert answer.against[0].box == XYWH


# -- IMAGE:x,y,w,h -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("a.jpg", ("a.jpg", None)),
        ("a.jpg:1,2,3,4", ("a.jpg", (1, 2, 3, 4))),
        ("-:1,2,3,4.5", ("-", (1, 2, 3, 4.5))),
        ("-", ("-", None)),
        (r"C:\photos\a.jpg", (r"C:\photos\a.jpg", None)),
        (r"C:\photos\a.jpg:1,2,3,4", (r"C:\photos\a.jpg", (1, 2, 3, 4))),
        ("C:a.jpg", ("C:a.jpg", None)),
        ("12:30/a.jpg:1, 2, 3, 4", ("12:30/a.jpg", (1, 2, 3, 4))),
        ("at 12:30.jpg", ("at 12:30.jpg", None)),
        ("-5,0,1:-5,-6,30,40", ("-5,0,1", (-5, -6, 30, 40))),
    ],
)
def test_a_view_is_read(text: str, expected: tuple[str, Any]) -> None:
    assert parse_view(text, "--also") == expected


def test_a_file_that_is_called_so_is_that_file(tmp_path: Path) -> None:
    named = tmp_path / "a.jpg:1,2,3,4"
    named.write_bytes(b"")
    assert parse_view(str(named), "--also") == (str(named), None)
    assert parse_view(f"{named}:5,6,7,8", "--also") == (str(named), (5, 6, 7, 8))


@given(st.text(st.characters(exclude_characters=":\0", codec="utf-8"), min_size=1, max_size=50))
def test_any_name_without_a_colon_is_a_picture(name: str) -> None:
    assert parse_view(name, "--not") == (name, None)
    assert parse_view(f"{name}:1,2,3,4", "--not") == (name, (1, 2, 3, 4))


def test_standard_input_may_be_asked_twice(
    cli: Cli, place: Path, index: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One picture on standard input: the object in one box, what it is not in another."""
    import io
    import types

    data = (place / "q" / "both.png").read_bytes()
    monkeypatch.setattr("sys.stdin", types.SimpleNamespace(buffer=io.BytesIO(data)))
    told = cli("query", "-", "--box", BOX, "--not", "-:270,20,100,100", "--index", index, "--json").json
    assert found(told) >= FRONT
    assert not found(told) & BACK

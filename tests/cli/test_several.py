"""Several indexes asked as one answer as one index of all their photographs."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import PIL.Image
import pytest

import instsearch
from instsearch_cli.data import Inputs
from instsearch_cli.engine.several import Collections, Engines, row_of
from instsearch_cli.errors import InstsearchError
from served_scenes import BOX, scene

Said = list[tuple[Path, float, Any, int]]


@pytest.fixture(scope="module", params=["sift", "plain"])
def made(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Fifteen scenes in three folders, each with an index, and an index of all."""
    folder = tmp_path_factory.mktemp(request.param)
    for i in range(15):
        path = folder / "abc"[i % 3] / f"{i}.png"
        path.parent.mkdir(exist_ok=True)
        PIL.Image.fromarray(scene(i, every=2)).save(path)
    parts = [[folder / name] for name in "abc"]
    for name, some in (*zip("abc", parts, strict=True), ("all", [path for (path,) in parts])):
        with instsearch.create(folder / f"{name}.idx") as index:
            index.index(some, preset="sift", rerank=["none"] if request.param == "plain" else None)
    return folder


def said(answer: instsearch.Answer) -> Said:
    return [(hit.path, hit.score, hit.box, hit.view) for hit in (*answer, *answer.near)]


@pytest.fixture
def both(made: Path) -> Iterator[tuple[list[instsearch.Index], instsearch.Index]]:
    parts = [instsearch.open(made / f"{name}.idx") for name in "abc"]
    whole = instsearch.open(made / "all.idx")
    yield parts, whole
    for index in (*parts, whole):
        index.close()


def assert_alike(one: Said, other: Said) -> None:
    assert len(one) == len(other) > 3
    assert {path: (box, view) for path, _, box, view in one} == {
        path: (box, view) for path, _, box, view in other
    }
    scores = {path: score for path, score, _, _ in other}
    assert {path: score for path, score, _, _ in one} == pytest.approx(scores, rel=1e-5, abs=1e-7)


@pytest.mark.parametrize("question", ["box", "whole", "views", "against"])
def test_answers_are_those_of_one_index(
    both: tuple[list[instsearch.Index], instsearch.Index], made: Path, question: str
) -> None:
    parts, whole = both
    picture, other = made / "a" / "12.png", made / "b" / "4.png"
    wishes: dict[str, Any] = {
        "box": {"box": BOX},
        "whole": {},
        "views": {"box": BOX, "also": [other]},
        "against": {"box": BOX, "against": [made / "b" / "1.png"]},
    }[question]
    one, two = (instsearch.query(indexes, picture, k=12, **wishes) for indexes in (parts, [whole]))
    assert_alike(said(one), said(two))
    assert one.n_images == two.n_images == 15
    assert one.best == pytest.approx(two.best)
    assert one.dropped == two.dropped
    assert one.indexes == tuple(index.path for index in parts)
    for hit in (*one, *one.near):
        assert parts[hit.index].store.images.path(hit.row) == hit.path


def test_steps_and_many_questions_are_those_of_one_index(
    both: tuple[list[instsearch.Index], instsearch.Index], made: Path
) -> None:
    from instsearch_cli.engine.together import answers

    parts, whole = both
    asked = [(made / "a" / "12.png", BOX), (made / "b" / "1.png", None)]
    steps = zip(*(answers(some, *asked[0], 12) for some in (parts, [whole])), strict=True)
    assert [one.step for one, other in steps if assert_alike(said(one), said(other)) is None]
    many = zip(*(instsearch.query_many(some, asked, k=12) for some in (parts, [whole])), strict=True)
    for one, other in many:
        assert_alike(said(one), said(other))


def test_the_same_indexes_in_another_order_do_not_wait_for_each_other(
    both: tuple[list[instsearch.Index], instsearch.Index], made: Path
) -> None:
    parts, _ = both

    def ask(some: list[instsearch.Index]) -> list[Said]:
        return [said(instsearch.query(some, made / "a" / "12.png", BOX)) for _ in range(3)]

    with ThreadPoolExecutor(3) as pool:
        asking = [pool.submit(ask, some) for some in (parts, parts[::-1], parts[1:] + parts[:1])]
        first, *others = [each.result(timeout=120) for each in asking]
    for other in others:
        assert_alike(other[0], first[0])


class Shelf:
    """A collection of which only some rows can be read."""

    encoder = weighter = None

    def __init__(self, readable: Sequence[int]) -> None:
        self.images, self.readable = np.arange(4), readable
        self.asked: list[int] = []

    def inputs(self, kinds: Sequence[str], rows: Sequence[int]) -> Iterator[Inputs]:
        for row in rows:
            self.asked.append(row)
            if row in self.readable:
                yield Inputs(size=(row, 1), row=row)


def test_what_is_said_of_a_view_is_said_with_it(
    both: tuple[list[instsearch.Index], instsearch.Index], made: Path
) -> None:
    parts, whole = both
    boxes = [BOX, (200, 100, 90, 60)]  # 50 pixels too wide
    one, other = (instsearch.query(some, made / "a" / "12.png", boxes) for some in (parts, [whole]))
    assert one.cautions == other.cautions
    assert any("12.png" in caution for caution in one.cautions)


def test_rows_that_cannot_be_read_are_left_out() -> None:
    shelves = [Shelf([0, 3]), Shelf([1, 2]), Shelf([])]
    data = Collections(cast("Any", shelves))
    rows = [row_of(*place) for place in ((1, 0), (0, 3), (2, 1), (1, 2), (0, 1), (0, 0), (1, 1), (2, 0))]
    found = list(data.inputs(("local",), rows))
    assert [data.place(each.row) for each in found] == [(0, 3), (1, 2), (0, 0), (1, 1)]
    assert [each.size[0] for each in found] == [3, 2, 0, 1]
    assert [data.place(row) for row in data.images] == [(i, row) for i in range(3) for row in range(4)]
    assert [data.place(each.row) for each in data.inputs(())] == [(0, 0), (0, 3), (1, 1), (1, 2)]


def test_inputs_are_read_as_they_are_wanted() -> None:
    shelf = Shelf(range(4))
    stream = Collections(cast("Any", [shelf, Shelf([])])).inputs((), [row_of(0, 2), row_of(0, 1)])
    assert shelf.asked == []
    assert next(stream).row == row_of(0, 2)
    assert shelf.asked == [2]


def test_what_is_said_of_one_index_is_said_with_its_folder() -> None:
    engines = [
        SimpleNamespace(index=SimpleNamespace(path=Path(name)), cautions=lambda query, own=own: ["all", own])
        for name, own in (("x", "one"), ("y", "two"), ("z", "one"))
    ]
    whole = Engines.__new__(Engines)
    whole.each = cast("Any", engines)
    assert whole.cautions(cast("Any", None)) == ["all", "x: one", "y: two", "z: one"]


def test_a_closed_index_is_not_asked(
    both: tuple[list[instsearch.Index], instsearch.Index], made: Path
) -> None:
    parts, _ = both
    parts[1].close()
    with pytest.raises(InstsearchError, match="is closed: open it again"):
        instsearch.query(parts, made / "a" / "12.png")

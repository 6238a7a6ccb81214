"""Several indexes asked as one: the hits of the whole collection, and a clear word where scores cannot be compared."""

from __future__ import annotations

import dataclasses
import re
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

import PIL.Image
import pytest

import instsearch
from instsearch_cli.engine.together import answers
from instsearch_cli.images import Photograph
from instsearch_plugins.searchers.hamming import HammingEmbedding
from schema_check import valid
from served_scenes import scene

Cli = Callable[..., Any]
BOX = "30,20,100,100"


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Twelve scenes, six in each of two folders; the thing asked for is in two of each."""
    folder = tmp_path_factory.mktemp("together")
    for i in range(13):
        path = folder / ("query.png" if i == 12 else f"{'ab'[i % 2]}/{i}.png")
        path.parent.mkdir(exist_ok=True)
        PIL.Image.fromarray(scene(i)).save(path)
    return folder


@pytest.fixture
def indexes(cli: Cli, place: Path) -> list[Path]:
    paths = [place / name for name in ("of-a", "of-b", "of-both")]
    for path, folders in zip(paths, (["a"], ["b"], ["a", "b"]), strict=True):
        if not path.exists():
            cli("index", *(place / name for name in folders), "--index", path, "--preset", "sift", "--quiet")
    return paths


def test_as_the_whole_collection_in_one(cli: Cli, place: Path, indexes: list[Path]) -> None:
    asking = ("query", place / "query.png", "--box", BOX, "--json")
    both = valid("query", cli(*asking, "--index", indexes[0], "--index", indexes[1]).out)
    whole = cli(*asking, "--index", indexes[2]).json
    assert both["index"] == [str(path) for path in indexes[:2]]
    assert both["images"] == whole["images"] == 12
    sure, wanted = (
        {hit["path"]: hit["score"] for hit in found["hits"] if hit["score"] >= 0.5} for found in (both, whole)
    )
    assert {Path(path).name for path in sure} == {"0.png", "3.png", "6.png", "9.png"}
    assert sure == pytest.approx(wanted, abs=0.01)
    assert [hit["rank"] for hit in both["hits"]] == list(range(1, len(both["hits"]) + 1))
    for hit in both["hits"]:
        assert instsearch.open(indexes[hit["index"]]).store.images.path(hit["row"]) == Path(hit["path"])
        assert Path(hit["path"]).parent.name == "ab"[hit["index"]]
    assert sorted((h["score"] for h in both["hits"]), reverse=True) == [h["score"] for h in both["hits"]]


def test_the_table_says_which_index(cli: Cli, place: Path, indexes: list[Path]) -> None:
    asking = ("query", place / "query.png", "--box", BOX)
    several = cli(*asking, "--index", indexes[0], "--index", indexes[1]).out.splitlines()
    assert several[0].split() == ["rank", "score", "box", "x,y,w,h", "index", "image"]
    assert {line.split()[3] for line in several[1:5]} == {"of-a", "of-b"}
    assert "index" not in cli(*asking, "--index", indexes[0]).out.splitlines()[0]


def test_in_python(place: Path, indexes: list[Path]) -> None:
    opened = [instsearch.open(path) for path in indexes[:2]]
    answer = instsearch.query(opened, place / "query.png", (30, 20, 100, 100), k=3)
    assert len(answer) == 3
    assert answer.indexes == tuple(indexes[:2])
    assert {hit.index for hit in answer} == {0, 1}
    alone = instsearch.query(opened[:1], place / "query.png", (30, 20, 100, 100))
    assert [hit.path for hit in alone] == [
        hit.path for hit in opened[0].query(place / "query.png", (30, 20, 100, 100))
    ]
    with pytest.raises(instsearch.UsageError, match="no index"):
        instsearch.query([], place / "query.png")


@pytest.mark.parametrize(
    ("flags", "wrong"),
    [
        (
            ("--preset", "sift", "--refit", "--set", "encoder.words=64"),
            "encoder 'bovw'.* learnt from its own",
        ),
        (("--preset", "sift", "--set", "extractor.keypoints=99"), "different pipelines"),
    ],
)
def test_scores_that_cannot_be_compared(
    cli: Cli, place: Path, indexes: list[Path], tmp_path: Path, flags: tuple[str, ...], wrong: str
) -> None:
    cli("index", place / "b", "--index", tmp_path / "own", *flags, "--quiet")
    outcome = cli("query", place / "query.png", "--index", indexes[0], "--index", tmp_path / "own", status=2)
    assert len(outcome.err.strip().splitlines()) <= 2
    assert re.search(wrong, outcome.err)


def test_what_could_learn_and_did_not_can_be_compared(
    cli: Cli, place: Path, tiny: tuple[str, ...], tmp_path: Path
) -> None:
    flags = (*tiny[:2], "--encoder", "sum", "--set", "encoder.whiten=false", "--quiet")
    made = [tmp_path / f"sum-{part}" for part in "ab"]
    for part, index in zip("ab", made, strict=True):
        cli("index", place / part, "--index", index, *flags)
    answer = instsearch.query([instsearch.open(index) for index in made], place / "query.png", k=12)
    assert {hit.index for hit in answer} == {0, 1}


@pytest.mark.parametrize("n", [1, 2])
def test_answers_come_step_by_step_and_end_with_the_answer(place: Path, indexes: list[Path], n: int) -> None:
    opened, box = [instsearch.open(path) for path in indexes[:n]], (30, 20, 100, 100)
    for more in ({}, {"also": [(place / "a" / "0.png", (0, 0, 90, 90))]}):
        *before, last = answers(opened, place / "query.png", box, 5, **more)
        assert [each.step for each in before] == ["hamming", "verified-qe", "aligned"]
        assert not any(each.probability for each in before)
        assert last == dataclasses.replace(
            instsearch.query(opened, place / "query.png", box, 5, **more), seconds=last.seconds
        )
        assert {hit.image for hit in before[0][:2]} <= {hit.image for hit in last}


def test_answers_that_nobody_waits_for_leave_the_engine_free(place: Path, indexes: list[Path]) -> None:
    index = instsearch.open(indexes[0])
    coming = index.answers(place / "query.png", (30, 20, 100, 100))
    assert next(coming).step
    coming.close()
    with ThreadPoolExecutor(1) as pool:  # the lock is the thread's
        assert pool.submit(index.query, place / "query.png", (30, 20, 100, 100)).result(timeout=60).found
    with pytest.raises(instsearch.UsageError, match="probabilities"):
        next(index.answers(place / "query.png", min_score=90))


def somebody_waits(index: instsearch.Index) -> None:
    """Until another thread does."""
    every, until = [turns.gates[0] for _, turns in index._warm._engines.values()], time.monotonic() + 30
    while not any(gate._waiting for gate in every):
        assert time.monotonic() < until
        time.sleep(0.001)


@pytest.mark.parametrize("several", [False, True])
def test_of_two_who_ask_both_see_something_before_either_is_told_all(
    place: Path, indexes: list[Path], several: bool
) -> None:
    opened = [instsearch.open(path) for path in indexes[: 2 if several else 1]]
    asking, told = (opened, place / "query.png", (30, 20, 100, 100)), []

    def other() -> None:
        for answer in answers(*asking):
            told.append(("other", answer.step))

    coming, thread = answers(*asking), threading.Thread(target=other)
    told.append(("one", next(coming).step))
    thread.start()
    somebody_waits(opened[0])
    last = [*coming][-1]
    told.append(("one", last.step))
    thread.join(60)
    assert told[:2] == [("one", "hamming"), ("other", "hamming")]
    assert ("one", "") in told[2:]
    assert ("other", "") in told[2:]
    assert last == dataclasses.replace(instsearch.query(*asking), seconds=last.seconds)


def test_an_index_that_changes_between_steps_is_asked_anew(cli: Cli, place: Path, tmp_path: Path) -> None:
    index = tmp_path / "index"
    cli("index", place / "a", "--index", index, "--preset", "sift", "--quiet")
    opened = instsearch.open(index)
    ask = partial(opened.answers, place / "query.png", (30, 20, 100, 100), rerank=["aligned"])
    coming = ask()
    sure = next(coming)[0].image
    cli("remove", sure, "--index", index, "--quiet")
    with ThreadPoolExecutor(1) as pool:
        other = pool.submit(lambda: [*ask()][-1])  # which takes in that it is gone
        somebody_waits(opened)
        last = [*coming][-1]
        assert last == dataclasses.replace(other.result(60), seconds=last.seconds)
    assert last[0].score > 5
    assert sure not in {hit.image for hit in last}


def test_a_picture_is_described_once_for_all_its_boxes(place: Path, indexes: list[Path]) -> None:
    index, picture = instsearch.open(indexes[2]), Photograph(place / "query.png")
    engine, described = index.engine(), []
    extract = engine.assembly.extractor.component.extract
    engine.assembly.extractor.component.extract = lambda *given: described.append(1) or extract(*given)
    for box in ((30, 20, 100, 100), (20, 20, 80, 80), None):
        warm = index.query(picture, box)
        cold = instsearch.open(indexes[2]).query(place / "query.png", box)
        assert [(hit.row, hit.score) for hit in warm] == [(hit.row, hit.score) for hit in cold]
    assert len(described) == 1


def test_all_are_searched_at_once(place: Path, indexes: list[Path], monkeypatch: pytest.MonkeyPatch) -> None:
    together, search = threading.Barrier(2, timeout=20), HammingEmbedding.search
    seen = threading.local()

    def met(self: HammingEmbedding, *arguments: Any) -> Any:
        if not hasattr(seen, "once"):
            seen.once = True
            together.wait()
        return search(self, *arguments)

    monkeypatch.setattr(HammingEmbedding, "search", met)
    opened = [instsearch.open(path) for path in indexes[:2]]
    assert instsearch.query(opened, place / "query.png").n_images == 12

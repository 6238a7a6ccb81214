"""Pipelines asked as one: evidence on one scale, added; each image's box of whichever says most; clear words."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import PIL.Image
import pytest
import torch
import torchvision
from hypothesis import given
from hypothesis import strategies as st

import instsearch
from instsearch_cli.data import Vectors
from instsearch_cli.engine.jointly import Joint, List, evidence, joint
from instsearch_cli.errors import UsageError
from instsearch_cli.images import Photograph
from schema_check import valid
from served_scenes import scene

Cli = Callable[..., Any]
BOX = "30,20,100,100"


def listed(scores: dict[str, float], probability: bool = False, boxed: str = "") -> List:
    boxes = [[1.0, 2, 3, 4] if image in boxed else [np.nan] * 4 for image in scores]
    return List(list(scores), np.array(list(scores.values())), np.array(boxes).reshape(-1, 4), probability)


def test_evidence_by_hand() -> None:
    """Of 30 scores three do not count: the other 27 fall from .27 by .01, median .14, 95th percentile .257."""
    scores = np.array([0.8, 0.75, 0.7, *np.arange(27, 0, -1) / 100])
    found = evidence(scores, probability=False)
    assert found[:3] == pytest.approx((scores[:3] - 0.14) / 0.117)
    assert found[2] == pytest.approx(4.786, abs=1e-3)
    assert found[3 + 13 :] == pytest.approx(0)
    assert evidence(np.array([9.0, *np.arange(27, 0, -1) / 100]), probability=False)[0] == 6  # at most
    p = np.array([0.9, 0.5, *[0.01] * 28])
    logit = np.log(p / (1 - p))
    assert evidence(p, probability=True) == pytest.approx(logit - logit[-1])
    assert evidence(np.array([1.0, 0.5]), probability=True)[0] == pytest.approx(np.log(1e7 - 1))
    assert evidence(np.array([0.7, 0.5, 0.3]), probability=False) == pytest.approx([3, 1.5, 0])  # of few
    assert evidence(np.zeros(0), probability=True).shape == (0,)
    assert (evidence(np.full(40, 0.3), probability=False) == 0).all()


def test_lists_become_one() -> None:
    sure = listed({"a": 0.9, "b": 0.5, "c": 0.1}, probability=True, boxed="ac")
    vectors = listed({"d": 0.7, "b": 0.6, "a": 0.3, "e": 0.3}, boxed="bd")
    found = joint([sure, vectors])
    one, two = evidence(sure.scores, True), 2 * evidence(vectors.scores, False)
    wanted = {"a": one[0] + two[2], "b": one[1] + two[1], "c": one[2], "d": two[0], "e": two[3]}
    assert dict(zip(found.images, found.scores, strict=True)) == pytest.approx(wanted)
    assert found.images == sorted(wanted, key=lambda image: -wanted[image])
    source = dict(zip(found.images, found.source, strict=True))
    assert (source["a"], source["b"], source["d"]) == ((0, 0), (1, 1), (1, 0))  # the others have no box


def test_the_guide_is_what_is_sure_ten_at_most() -> None:
    scores = np.r_[np.full(12, 14.0), 7.0]
    found = Joint([*range(13)], scores, [(0, i) for i in range(13)])
    assert list(found.guide.images) == [*range(10)]
    assert found.guide.weights == pytest.approx(np.ones(10))
    three = Joint([4, 5, 6], np.array([28.0, 14.0, 6.9]), [(0, 0)] * 3).guide
    assert (list(three.images), list(three.weights)) == ([4, 5], [1.0, 0.5])
    assert not Joint([4], np.array([6.9]), [(0, 0)]).guide.images
    assert not Joint([], np.zeros(0), []).guide.images


def test_vectors_count_as_far_as_they_see_what_is_sure() -> None:
    """Of 40 images two are sure, which the vectors find further down: a is their mean over 0.6 of the most, 6."""
    rest = [f"{i:02}" for i in range(38)]
    sure = listed({"a": 0.999, "b": 0.99, **dict.fromkeys(rest, 1e-4)}, probability=True)
    tail = np.linspace(1, 0, 36)
    scores = np.sort(np.r_[99.0, 98, 97, 96, tail])[::-1]
    names = [*rest[:4], *rest[4:20], "a", *rest[20:34], "b", *rest[34:]]
    vectors = listed(dict(zip(names, scores, strict=True)))
    parts = dict(zip(names, evidence(vectors.scores, False), strict=True))
    a = (parts["a"] + parts["b"]) / 2 / (0.6 * 6)
    assert 0 < a < 1
    joined = joint([sure, vectors])
    said = dict(zip(joined.images, joined.scores, strict=True))
    own = dict(zip(sure.images, evidence(sure.scores, True), strict=True))
    for image in names:
        assert said[image] == pytest.approx(own[image] + 2 * a**2 * parts[image])
    alone = joint([listed({"a": 0.999, **dict.fromkeys(rest, 1e-4)}, probability=True), vectors])
    assert max(alone.scores) == pytest.approx(
        max(12.0, own["a"] + 2 * parts["a"])
    )  # one is too few to tell by


@given(st.lists(st.floats(-3, 3, width=32), min_size=1, max_size=60), st.floats(0.1, 9), st.floats(-5, 5))
def test_scale_and_shift_of_scores_do_not_matter(scores: list[float], a: float, b: float) -> None:
    s = np.sort(np.array(scores))[::-1]
    s = s[np.r_[True, np.diff(s) < -1e-3]]
    found, other = evidence(s, False), evidence(a * s + b, False)
    assert (np.diff(found) <= 1e-9).all()
    if len(s) >= 20:
        assert other == pytest.approx(found, rel=1e-4, abs=1e-4)


# -- over real indexes -----------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Eight scenes, the thing asked for in four; two pipelines over them, of keypoints and of a small network."""
    folder = tmp_path_factory.mktemp("jointly")
    for i in range(9):
        path = folder / ("query.png" if i == 8 else f"photos/{i}.png")
        path.parent.mkdir(exist_ok=True)
        PIL.Image.fromarray(scene(i, 2, 8)).save(path)
    PIL.Image.fromarray(np.full((180, 240, 3), 128, np.uint8)).save(folder / "even.png")
    index = instsearch.create(folder / "i")
    index.index(folder / "photos", preset="sift", name="points")
    torch.manual_seed(0)
    (folder / "weights").mkdir()
    torch.save(torchvision.models.squeezenet1_0().state_dict(), folder / "weights/squeezenet1_0.pth")
    index.index(
        name="vectors", extractor="squeezenet1_0", encoder="sum", weights=folder / "weights/squeezenet1_0.pth"
    )
    query = {"id": "q", "image": "query.png", "box": [30, 20, 100, 100]}
    positives = [f"photos/{i}.png" for i in (0, 2, 4, 6)]
    images = [f"photos/{i}.png" for i in range(8)]
    manifest = {"images": images, "queries": [{**query, "positives": positives}]}
    (folder / "m.json").write_text(json.dumps(manifest))
    return folder


def of_query(place: Path, pipeline: str) -> np.ndarray:
    """The code of the query of all tests here, f32[D]."""
    engine = instsearch.open(place / "i").engine(pipeline)
    codes = engine.query("q", Photograph(place / "query.png"), (30, 20, 130, 120)).codes
    assert isinstance(codes, Vectors)
    return np.asarray(codes.vectors[0])


def test_two_are_asked_as_one(cli: Cli, place: Path) -> None:
    asking = ("query", place / "query.png", "--box", BOX, "--index", place / "i", "--json", "-k", 8)
    both = valid("query", cli(*asking, "--pipeline", "points", "--pipeline", "vectors").out)
    again = cli(*asking, "--pipeline", "points+vectors").json
    assert [h["score"] for h in both["hits"]] == [h["score"] for h in again["hits"]]
    assert both["pipeline"] == "points+vectors"
    assert not both["probability"]
    each = [cli(*asking[:-1], 1000, "--pipeline", name).json for name in ("points", "vectors")]
    lists = [
        List(
            [h["image"] for h in answer["hits"]],
            np.array([h["score"] for h in answer["hits"]]),
            np.array([h["box"] or [np.nan] * 4 for h in answer["hits"]], float),
            answer["probability"],
        )
        for answer in each
    ]
    assert [given.probability for given in lists] == [True, False]
    names = instsearch.open(place / "i").images
    first = joint(lists)
    guide = first.guide
    assert 0 < len(guide.images) < len(first.images)
    assert list(guide.images) == [i for i, s in zip(first.images, first.scores, strict=True) if s > 7]
    assert guide.weights == pytest.approx(first.scores[: len(guide.images)] / first.scores[0])
    codes = instsearch.open(place / "i").codes(pipeline="vectors")["vectors"]
    q = of_query(place, "vectors")
    wide = q + sum(
        w * codes[names.index(image)] for image, w in zip(guide.images, guide.weights, strict=True)
    )
    scores = codes @ (wide / np.linalg.norm(wide))
    order = np.argsort(-scores)
    again = List([names[i] for i in order], scores[order], np.full((len(order), 4), np.nan), False)
    wanted = joint([lists[0], again])
    found = {h["image"]: h["score"] for h in both["hits"]}
    assert found == pytest.approx(dict(zip(wanted.images, wanted.scores, strict=True)), abs=1e-2)
    assert {h["image"] for h in both["hits"][:4]} == {"0.png", "2.png", "4.png", "6.png"}
    assert all(h["box"] for h in both["hits"][:4])
    cli(*asking[:-3], "--pipeline", "points+vectors", "--html", place / "hits.html")
    assert "points+vectors" in (place / "hits.html").read_text()


def test_measured_as_one(cli: Cli, place: Path) -> None:
    flags = ("eval", "--dataset", place / "m.json", "--index", place / "i", "--json", "--quiet")
    both = valid("eval", cli(*flags, "--pipeline", "points+vectors").out)
    assert (both["name"], both["metrics"]["mAP"]) == ("points+vectors", 1.0)
    assert [each["name"] for each in both["also"]] == ["vectors"]
    table = cli(*flags[:-2], "--pipeline", "points", "--pipeline", "points+vectors").out
    assert "points+vectors" in table
    assert cli(*flags, "--pipeline", "points+vectors", "--absent", "--top", 3).status == 0
    missing = cli(*flags, "--pipeline", "points+vector", status=2).err
    assert "'vector'" in missing
    assert "Did you mean 'vectors'" in missing


@pytest.fixture
def several(place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> instsearch.Index:
    """An index that one file of two pipelines made: the last of them takes what is chosen."""
    monkeypatch.setenv("INSTSEARCH_WEIGHTS", str(place / "weights"))
    (tmp_path / "two.toml").write_text('together = ["sift", "patches"]\n')
    index = instsearch.create(tmp_path / "i")
    photos = [place / f"photos/{i}.png" for i in range(6)]
    done = index.index(photos, preset=tmp_path / "two.toml")
    assert (done.pipeline.name, [each.pipeline.name for each in done.beside]) == ("sift", ["patches"])
    assert done.beside[0].written["codes"] == 6
    return index


def test_a_preset_of_several_is_asked_added_to_and_followed_as_one(
    cli: Cli, place: Path, tmp_path: Path, several: instsearch.Index
) -> None:
    assert several.last == "sift+patches"
    asked = several.query(place / "query.png", (30, 20, 100, 100))
    assert asked.pipeline == "sift+patches"
    named = several.query(place / "query.png", (30, 20, 100, 100), pipeline="sift+patches")
    assert asked.hits == named.hits
    assert several.beside(place / "query.png", (30, 20, 100, 100), "0.png") is not None
    cli("add", place / "photos/6.png", "--index", tmp_path / "i")
    added = valid("index", cli("add", place / "photos/7.png", "--index", tmp_path / "i", "--json").out)
    assert added["indexed"] == 1
    assert added["beside"][0]["written"]["codes"] == 1
    assert instsearch.open(tmp_path / "i").info()["searchable"] == {"patches": 8, "sift": 8}
    found = cli("query", place / "query.png", "--box", BOX, "--index", tmp_path / "i", "--json", "-k", 4).json
    assert {h["image"] for h in found["hits"]} == {f"{i}.png" for i in (0, 2, 4, 6)}
    measured = cli("eval", "--dataset", place / "m.json", "--index", tmp_path / "i", "--json", "--quiet")
    assert valid("eval", measured.out)["name"] == "sift+patches"
    as_preset = ("--preset", tmp_path / "two.toml", "--json", "--quiet")
    chosen = cli("eval", "--dataset", place / "m.json", "--index", tmp_path / "i", *as_preset).json
    assert chosen["metrics"] == json.loads(measured.out)["metrics"]
    assert [each["name"] for each in chosen["also"]] == ["patches"]
    said = cli("info", "--index", tmp_path / "i").out
    assert said.count("of the last: asked as one where no --pipeline is named") == 2
    assert cli("verify", "--index", tmp_path / "i").status == 0
    (place / "photos/7.png").touch()
    several.remove(place / "photos/7.png")
    several.sync()
    assert several.last == "sift+patches"


def test_weights_of_all_are_looked_for_before_the_first_is_made(
    cli: Cli, place: Path, tmp_path: Path
) -> None:
    env = {"INSTSEARCH_WEIGHTS": str(tmp_path), "INSTSEARCH_OFFLINE": "1"}
    (tmp_path / "two.toml").write_text('together = ["sift", "patches"]\n')
    with pytest.MonkeyPatch.context() as patch:
        for name, value in env.items():
            patch.setenv(name, value)
        run = ("index", place / "photos", "--index", tmp_path / "i", "--preset", tmp_path / "two.toml")
        assert "no weights for squeezenet1_0" in cli(*run, status=1).err
    assert not (tmp_path / "i").exists()


def test_the_last_of_several_takes_what_is_chosen_and_stays_alone(
    cli: Cli, place: Path, tmp_path: Path, several: instsearch.Index
) -> None:
    refused = cli("query", place / "query.png", "--index", tmp_path / "i", "--rerank", "none", status=2)
    assert "as they were recorded" in refused.err
    several.gc(forget=["patches"])
    assert several.last == "sift"
    again = several.index(preset=tmp_path / "two.toml", detector="none")
    assert (again.pipeline.detector, again.beside[0].pipeline.detector) == (None, None)
    assert several.last == f"sift+{again.beside[0].pipeline.name}"
    several.index(pipeline="sift")
    assert several.last == "sift"


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ('together = ["sift"]', "two presets or more"),
        ('together = ["sift", "sift"]', "two presets or more"),
        ('together = "sift"', "two presets or more"),
        ('together = ["sift", "patches"]\n[encoder]\nname = "sum"', "nothing stands beside it"),
        ('together = ["sift", "patch"]', "Did you mean 'patches'"),
    ],
)
def test_a_file_that_is_no_preset_of_several(
    cli: Cli, place: Path, tmp_path: Path, text: str, said: str
) -> None:
    (tmp_path / "p.toml").write_text(text)
    index = ("index", place / "photos", "--index", tmp_path / "i", "--preset", tmp_path / "p.toml")
    assert said in cli(*index, status=2).err
    (tmp_path / "p.toml").write_text('together = ["sift", "patches"]')
    assert "--name is of one pipeline" in cli(*index, "--name", "x", status=2).err


def test_one_that_cannot_be_asked_is_left_out(cli: Cli, place: Path) -> None:
    asking = ("query", place / "even.png", "--index", place / "i", "--pipeline", "points+vectors")
    found = cli(*asking)
    assert "left out of what is asked together: query" in found.err
    assert "no keypoints in the picture" in found.err
    index = instsearch.open(place / "i")
    steps = list(index.answers(place / "query.png", (30, 20, 100, 100), pipeline="points+vectors"))
    assert [answer.step for answer in steps] == ["points", "vectors", ""]
    assert (
        steps[-1].hits == index.query(place / "query.png", (30, 20, 100, 100), pipeline="points+vectors").hits
    )
    assert (
        index.beside(place / "query.png", (30, 20, 100, 100), "0.png", pipeline="vectors+points") is not None
    )


def test_a_batch_of_several_goes_on_where_it_stopped(cli: Cli, place: Path, tmp_path: Path) -> None:
    """Also where one of them could not be asked a question, and where indexes call a pipeline otherwise."""
    (tmp_path / "b.csv").write_text(f"image,id\n{place / 'even.png'},even\n{place / 'query.png'},thing\n")
    asking = ("query", "--batch", tmp_path / "b.csv", "--index", place / "i", "--quiet")
    joint_ones = (*asking, "--pipeline", "points+vectors", "-o", tmp_path / "joint.jsonl")
    instsearch.create(tmp_path / "other").index(place / "photos", preset="sift", name="otherwise")
    two_indexes = (*asking, "--index", tmp_path / "other", "-o", tmp_path / "two.jsonl")
    instsearch.open(place / "i").index(pipeline="points")  # the last again
    for words, out in ((joint_ones, "joint.jsonl"), (two_indexes, "two.jsonl")):
        cli(*words, status=None)
        lines = (tmp_path / out).read_text()
        assert "2 of them before" in cli(*words, status=None).err
        assert (tmp_path / out).read_text() == lines
    lines = (tmp_path / "joint.jsonl").read_text()
    assert {json.loads(line)["pipeline"] for line in lines.splitlines()} == {"points+vectors"}


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        (["--pipeline", "points+points"], "twice"),
        (["--pipeline", "points+none"], "no pipeline 'none'"),
        (["--pipeline", "points+vectors", "--rerank", "none"], "as they were recorded"),
        (["--pipeline", "points+vectors", "--set", "extractor.size=200"], "as they were recorded"),
        (["--pipeline", "points+vectors", "--per-image", 2], "one hit an image"),
        (["--pipeline", "points+"], "no pipeline ''"),
    ],
)
def test_what_cannot_be_asked(cli: Cli, place: Path, flags: list[Any], said: str) -> None:
    assert said in cli("query", place / "query.png", "--index", place / "i", *flags, status=2).err


def test_several_indexes_take_one_pipeline(place: Path, tmp_path: Path) -> None:
    shutil.copytree(place / "i", tmp_path / "j")
    index, other = (instsearch.open(folder) for folder in (place / "i", tmp_path / "j"))
    with pytest.raises(UsageError, match="by points and vectors together: give one, --pipeline points"):
        instsearch.query([index, other], place / "query.png", pipeline="points+vectors")
    with pytest.raises(UsageError, match="an index is asked once, and this is given twice"):
        instsearch.query([other, instsearch.open(tmp_path / "j" / ".." / "j")], place / "query.png")


def test_what_keypoints_refuse_vectors_do_not_bring_back(place: Path, tmp_path: Path) -> None:
    index = instsearch.open(place / "i")
    box, query = tuple(map(int, BOX.split(","))), place / "query.png"
    pixels = np.array(PIL.Image.open(query))
    pixels[150:] = 0
    alone = index.query(query, box, pipeline="points", against=[(pixels, box)], k=50)
    both = index.query(query, box, pipeline="points+vectors", against=[(pixels, box)], k=50)
    assert alone.refused
    assert both.refused == alone.refused
    assert both.dropped == alone.dropped
    assert not {hit.row for hit in both} & alone.refused
    assert {hit.row for hit in both} | both.refused == set(range(both.n_images))


def test_a_least_score_of_several_pipelines_is_explained(cli: Cli, place: Path) -> None:
    both = ("query", place / "query.png", "--index", place / "i", "--pipeline", "points+vectors")
    assert "of several pipelines together are no probabilities" in cli(*both, "--min-score", 0.5).err
    assert "several pipelines together" not in cli(*both).err

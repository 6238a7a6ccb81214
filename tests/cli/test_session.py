"""The Python interface: what the verbs do, by `import instsearch`, and what wrong use of it is told."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import PIL.Image
import pytest

import instsearch
from instsearch import Index, InstsearchError, UsageError
from instsearch_cli.engine.query import Engine
from instsearch_formats import ImageTable
from instsearch_formats import Index as Store
from opened_index import index, told

__all__ = ["index"]  # fixtures

Cli = Callable[..., Any]


# -- the same as the command line ----------------------------------------------------------------------


def test_importing_it_imports_nothing_heavy() -> None:
    code = "import sys, instsearch; sys.exit(bool({'torch', 'cv2', 'h5py', 'faiss', 'click'} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_every_name_is_there_and_documented() -> None:
    for name in instsearch.__all__:
        assert getattr(instsearch, name) is not None
        assert name == "__version__" or getattr(instsearch, name).__doc__, name
    assert set(dir(instsearch)) == set(instsearch.__all__)
    with pytest.raises(AttributeError, match="no attribute 'opne'"):
        _ = instsearch.opne


def test_an_answer_is_what_the_command_prints(cli: Cli, index: Index, photos: Path) -> None:
    box = (8, 8, 32, 24)
    answer = index.query(photos / "a" / "1.png", box=box, k=5)
    printed = cli(
        "query", photos / "a" / "1.png", "--index", index.path, "--box", "8,8,32,24", "-k", 5, "--json"
    ).json
    assert [hit["image"] for hit in printed["hits"]] == [hit.image for hit in answer]
    assert [hit["score"] for hit in printed["hits"]] == [hit.score for hit in answer]
    assert answer.box == (8, 8, 32, 24)
    assert answer.found
    assert len(answer) == 5
    assert answer[0].path == photos / answer[0].image
    assert [hit.rank for hit in answer[:2]] == [1, 2]


def test_boxes_are_corner_width_and_height(index: Index, photos: Path) -> None:
    index.index(detector="halves", name="halves")
    for hit in index.query(photos / "a" / "1.png", pipeline="halves"):
        assert hit.box in ((0, 0, 32, 48), (32, 0, 32, 48))
    assert all(hit.box is None for hit in index.query(photos / "a" / "1.png", pipeline="cells-centred-flat"))


def test_a_picture_may_be_a_file_a_picture_or_an_array(index: Index, photos: Path) -> None:
    path = photos / "a" / "1.png"
    with PIL.Image.open(path) as opened:
        picture = opened.convert("RGB")
    expected = told(index.query(path, (0, 0, 40, 40)))
    assert told(index.query(str(path), (0, 0, 40, 40))) == expected
    assert told(index.query(picture, (0, 0, 40, 40))) == expected
    assert told(index.query(np.asarray(picture), np.array([0, 0, 40, 40]))) == expected


def test_a_turned_picture_is_asked_upright(index: Index, photos: Path, tmp_path: Path) -> None:
    exif = PIL.Image.Exif()
    exif[0x0112] = 6
    with PIL.Image.open(photos / "a" / "1.png") as picture:
        picture.transpose(PIL.Image.Transpose.ROTATE_90).save(tmp_path / "turned.png", exif=exif)
    with PIL.Image.open(tmp_path / "turned.png") as turned:
        answer = index.query(turned, (0, 0, 64, 20))
    assert told(answer) == told(index.query(tmp_path / "turned.png", (0, 0, 64, 20)))
    assert told(answer) == told(index.query(photos / "a" / "1.png", (0, 0, 64, 20)))


def test_many_questions_have_the_answers_of_each(index: Index, photos: Path) -> None:
    questions = [(path, (0, 0, 8 * i + 8, 40)) for i, path in enumerate(sorted(photos.rglob("*.png"))[:6])]
    many = index.query_many([*questions[:3], *map(list, questions[3:]), questions[0][0]], k=4)
    one_by_one = [index.query(path, box, 4) for path, box in questions] + [index.query(questions[0][0], k=4)]
    assert [told(answer) for answer in many] == [told(answer) for answer in one_by_one]
    assert index.query_many([]) == []


def test_what_the_index_says_of_itself(cli: Cli, index: Index) -> None:
    assert len(index) == 10
    assert index.images[:2] == ["a/1.png", "a/3.png"]
    assert index.last == "cells-centred-flat"
    assert list(index.pipelines) == ["cells-centred-flat"]
    assert index.info() == cli("info", "--index", index.path, "--json").json
    assert index.verify() == []


def test_adding_removing_and_moving(index: Index, photos: Path, tmp_path: Path, draw: Any) -> None:
    draw(photos / "a" / "99.png", 99)
    done = index.add(photos)
    assert (done.intake.found, done.intake.new, done.intake.there) == (11, 1, 10)
    assert index.remove("a/99.png", photos / "b") == (6, 5)
    photos.rename(tmp_path / "moved")
    assert index.relocate(photos, tmp_path / "moved") == (str(photos), str(tmp_path / "moved"))
    assert index.query(tmp_path / "moved" / "a" / "1.png")[0].path == tmp_path / "moved" / "a" / "1.png"
    assert {p.name for p in index.gc(dry_run=True)} == set()


def test_a_pipeline_is_made_from_the_one_that_is_named(index: Index) -> None:
    index.index(weighting="bright", name="bright", rerank=["again"])
    done = index.index(pipeline="cells-centred-flat", options=["encoder.power=2"], name="squared")
    assert done.pipeline.weighting.name == "flat"
    assert done.pipeline.rerank == ()
    assert done.written == {"codes": 10, "search": 10}
    assert not done.fitted
    assert "squared wrote codes 10, search 10" in repr(done)
    assert index.index(pipeline="bright", rerank=()).pipeline.rerank == ()


def test_the_default_pipeline_needs_no_choice(photos: Path, tmp_path: Path) -> None:
    index = instsearch.create(tmp_path / "i")
    done = index.add(photos)
    assert done.pipeline.extractor.name == "sift"
    assert index.last == "sift"


# -- numbers -------------------------------------------------------------------------------------------


def test_layers_are_arrays_with_names(index: Index, photos: Path) -> None:
    features = index.features("a/1.png")
    assert features.images == ["a/1.png"]
    assert features["values"].shape == (3, 4, 4)
    assert tuple(features["grid"]) == (4, 4)
    np.testing.assert_array_equal(np.asarray(features), features["values"])
    np.testing.assert_array_equal(np.asarray(index.features(photos / "a" / "1.png")), features["values"])
    assert "values f32[3, 4, 4]".replace("f32", "float32") in repr(features)
    np.testing.assert_array_equal(np.asarray(index.weights("a/1.png")), np.ones((1, 4, 4), np.float32))
    codes = index.codes()
    assert codes.images == index.images
    assert codes.matrix().shape == (10, 3)
    np.testing.assert_array_equal(codes["image"], np.arange(10))
    np.testing.assert_array_equal(np.asarray(index.codes("a/1.png"))[0], codes.matrix()[0])
    index.remove("a/1.png", "b/4.png")
    kept = [i for i, name in enumerate(codes.images) if name not in ("a/1.png", "b/4.png")]
    np.testing.assert_array_equal(index.codes().matrix(), codes.matrix()[kept])
    index.index(detector="halves")
    assert index.regions("a/3.png")["boxes"].tolist() == [[0, 0, 32, 48], [32, 0, 32, 48]]


def test_sparse_codes_are_a_matrix(photos: Path, tmp_path: Path, tiny: tuple[str, ...]) -> None:
    index = instsearch.create(tmp_path / "i")
    index.index(
        photos, extractor="cells", encoder="blcf", options=["encoder.words=4", "encoder.whiten=false"]
    )
    matrix = index.codes().matrix()
    assert matrix.shape[0] == 10
    np.testing.assert_allclose(np.sqrt(matrix.multiply(matrix).sum(axis=1)), 1, atol=1e-5)
    assert index.local("a/1.png")["words"].shape == (4, 4)
    one = index.codes("a/1.png")
    np.testing.assert_array_equal(one.matrix().toarray()[0], matrix.toarray()[0])
    np.testing.assert_array_equal(np.asarray(one), one["data"])


def test_export_writes_what_numpy_loads(cli: Cli, index: Index, tmp_path: Path) -> None:
    said = cli("export", "--index", index.path, "--layer", "codes", "-o", tmp_path / "c.npz").out
    assert "codes of 10 images" in said
    with np.load(tmp_path / "c.npz", allow_pickle=False) as loaded:
        assert loaded["images"].tolist() == index.images
        np.testing.assert_array_equal(loaded["vectors"], index.codes().matrix())
    again = cli("export", "--index", index.path, "--layer", "codes", "-o", tmp_path / "c.npz", status=1).err
    assert "--force replaces it" in again
    assert (
        "Did you mean 'codes'"
        in cli("export", "--index", index.path, "--layer", "code", "-o", tmp_path / "d.npz", status=2).err
    )
    assert (
        "--keep-features"
        in cli("export", "--index", index.path, "--layer", "features", "-o", tmp_path / "d.npz", status=1).err
    )


def test_any_picture_can_be_described(index: Index, photos: Path) -> None:
    described = index.describe(photos / "a" / "1.png")
    assert described.kinds == ["features", "weights", "codes"]
    stored = np.asarray(index.codes("a/1.png"))
    np.testing.assert_array_equal(described.codes.vectors.numpy(), stored)
    assert described.features is described["features"]


# -- measuring -----------------------------------------------------------------------------------------


def test_pipelines_are_compared_by_name(index: Index, photos: Path, tmp_path: Path) -> None:
    names = sorted(p.name for p in (photos / "a").iterdir())
    manifest = {
        "name": "mine",
        "images": [f"photos/a/{n}" for n in names],
        "queries": [{"id": "q", "image": f"photos/a/{names[0]}", "positives": [f"photos/a/{names[0]}"]}],
    }
    (tmp_path / "m.json").write_text(json.dumps(manifest))
    index.index(options=["encoder.power=2"], name="bright")
    for name in ("bright", "cells-centred-flat"):
        measured = instsearch.evaluate(index, tmp_path / "m.json", pipeline=name)
        assert measured.pipeline.name == name
        assert measured.metrics["mAP"] == 1.0
        assert index.last == "bright"
    with pytest.raises(
        UsageError, match=r"no pipeline 'brigt', nor is a preset called so\. Did you mean 'bright'"
    ):
        instsearch.evaluate(index, tmp_path / "m.json", pipeline="brigt")
    with pytest.raises(UsageError, match="as it was recorded"):
        instsearch.evaluate(index, tmp_path / "m.json", pipeline="bright", encoder="centred")


def test_what_there_is_to_choose_from(tiny: tuple[str, ...]) -> None:
    assert {row["name"] for row in instsearch.plugins()} >= {"cells", "sift", "blcf"}
    (row,) = instsearch.plugins("bms")
    assert row["kind"] == "weighting"
    assert {option["name"] for option in row["options"]}
    assert "sift" in instsearch.presets()


# -- kept warm, and up to date -------------------------------------------------------------------------


def test_a_second_question_loads_nothing(index: Index, photos: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    index.query(photos / "a" / "1.png")
    engine = index.engine()

    def never(*_: Any) -> Any:
        raise AssertionError("loaded again")

    monkeypatch.setattr("instsearch_cli.engine.asking.Assembly", never)
    monkeypatch.setattr(index.store, "read_model", never)
    monkeypatch.setattr("instsearch_formats.layer.Layer.arrays", never)
    assert index.query(photos / "a" / "3.png")[0].image == "a/3.png"
    assert index.engine() is engine


def test_threads_may_ask_at_once(index: Index, photos: Path) -> None:
    paths = sorted(photos.rglob("*.png"))
    expected = [told(index.query(path)) for path in paths]
    with ThreadPoolExecutor(8) as pool:
        for _ in range(3):
            assert [told(answer) for answer in pool.map(index.query, paths)] == expected


def test_what_another_process_adds_and_removes_is_noticed(
    cli: Cli, index: Index, photos: Path, tmp_path: Path, draw: Any
) -> None:
    draw(tmp_path / "more" / "new.png", 77)
    assert index.query(tmp_path / "more" / "new.png")[0].image != "new.png"
    cli("add", tmp_path / "more", "--index", index.path)
    assert index.query(tmp_path / "more" / "new.png")[0].image == "new.png"
    assert len(index) == 11
    cli("index", "--index", index.path, "--weighting", "bright", "--name", "other")
    assert index.query(photos / "a" / "1.png").settings["pipeline"] == "other"
    cli("remove", "new.png", "--index", index.path)
    for pipeline in ("other", "cells-centred-flat"):
        found = index.query(tmp_path / "more" / "new.png", pipeline=pipeline)
        assert "new.png" not in [hit.image for hit in found]


def test_an_index_that_another_process_collects(cli: Cli, index: Index, photos: Path) -> None:
    cli("index", "--index", index.path, "--set", "encoder.power=2", "--name", "other")
    index.query(photos / "a" / "1.png", pipeline="cells-centred-flat")
    cli("gc", "--index", index.path, "--forget", "cells-centred-flat")
    with pytest.raises(InstsearchError, match="no pipeline 'cells-centred-flat'"):
        index.query(photos / "a" / "1.png", pipeline="cells-centred-flat")
    assert index.query(photos / "a" / "1.png")[0].image == "a/1.png"


def test_an_interrupted_question_leaves_the_index_usable(
    index: Index, photos: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine = index.engine()
    with monkeypatch.context() as patch:

        def stop(*_: Any) -> Any:
            raise KeyboardInterrupt

        patch.setattr(engine, "search", stop)
        with pytest.raises(KeyboardInterrupt):
            index.query(photos / "a" / "1.png")
    assert index.query(photos / "a" / "1.png")[0].image == "a/1.png"


def test_names_while_another_process_adds(
    cli: Cli, tiny: tuple[str, ...], photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A part comes between looking which rows live and reading them."""
    cli("index", photos, "--index", tmp_path / "i", *tiny)
    table = Store.open(tmp_path / "i").images
    real, records = ImageTable.alive, [record for _, record in table.records()]

    def late(self: ImageTable) -> np.ndarray:
        alive = real(self)
        if self is not table and len(table) == len(records):
            table.append([record._replace(name=b"new" + record.name) for record in records])
        return alive

    monkeypatch.setattr(ImageTable, "alive", late)
    with (
        pytest.raises(InstsearchError, match=r"no image 'x\.png'"),
        instsearch.open(tmp_path / "i") as opened,
    ):
        opened.features("x.png")


def test_an_answer_is_of_one_state(
    cli: Cli, tiny: tuple[str, ...], photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The first hit is removed between the search and the answer: it is asked again."""
    cli("index", photos, "--index", tmp_path / "i", *tiny)
    with instsearch.open(tmp_path / "i") as opened:
        first = opened.query(photos / "a" / "1.png")[0].image
        real = Engine.search

        def late(self: Engine, *arguments: Any) -> Any:
            hits = real(self, *arguments)
            store = Store.open(tmp_path / "i").images
            store.remove([row for row, record in store.records() if record.name.decode() == first], "removed")
            return hits

        monkeypatch.setattr(Engine, "search", late)
        assert first not in [hit.image for hit in opened.query(photos / "a" / "1.png")]


def test_an_answer_takes_memory_by_the_images_there_are(
    index: Index, photos: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = Engine.steps

    def watched(self: Engine, queries: Any, k: int, evidence: bool = False) -> Any:
        assert k <= 1000
        return real(self, queries, k, evidence)

    monkeypatch.setattr(Engine, "steps", watched)
    picture = photos / "a" / "1.png"
    assert len(index.query(picture, k=10**9)) == 10
    assert len(index.query(picture, k=10**9, also=[photos / "a" / "3.png"])) == 10
    assert len(list(index.answers(picture, k=10**9))[-1]) == 10

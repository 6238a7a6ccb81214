"""Manifests: which images their lists and their boxes may name."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from instsearch_cli.errors import InstsearchError
from instsearch_plugins.datasets.manifest import Manifest

ONE, TWO, TOP, OTHER = "a/1.jpg", "b/1.jpg", "2.jpg", "c/2.jpg"


def manifest(folder: Path, rows: str = "", **options: Any) -> Manifest:
    query = {"id": "q", "image": "out/q.jpg", "positives": [ONE]}
    table = {"images": [ONE, TWO, TOP, OTHER, "c/3.jpg"], "queries": [query | options.pop("query", {})]}
    (folder / "manifest.json").write_text(json.dumps(table))
    (folder / "boxes.csv").write_text("image,x,y,w,h\n" + rows)
    return Manifest(Manifest.Config(str(folder / "manifest.json"), **options), None)


def test_a_file_name_alone_is_of_the_one_image_that_has_it(tmp_path: Path) -> None:
    rows = "1.jpg,0,0,9,9\n2.jpg,0,0,1,1\n3.jpg,0,0,2,2\nb/1.jpg,0,0,3,3\nb/1.jpg,1,1,3,3\nz/1.jpg,0,0,9,9\n"
    assert manifest(tmp_path, rows).boxes() == {
        TOP: [(0, 0, 1, 1)],
        "c/3.jpg": [(0, 0, 2, 2)],
        TWO: [(0, 0, 3, 3), (1, 1, 4, 4)],
    }


def test_boxes_that_were_asked_for_and_are_of_none_of_the_images(tmp_path: Path) -> None:
    rows = "1.jpg,0,0,9,9\nphotos/3.jpg,0,0,9,9\n"
    assert manifest(tmp_path, rows).boxes() == {}
    asked = manifest(tmp_path, rows, boxes=str(tmp_path / "boxes.csv"))
    with pytest.raises(
        InstsearchError, match=r"boxes\.csv has a box of none of the images of .*manifest\.json$"
    ):
        asked.boxes()


def test_junk_may_be_a_distractor_and_what_is_excluded_anything(tmp_path: Path) -> None:
    (tmp_path / "more").mkdir()
    (tmp_path / "more/1.jpg").write_bytes(b"")
    lists = {"junk": ["distractors/1.jpg"], "exclude": ["out/q.jpg"]}
    dataset = manifest(tmp_path, "1.jpg,0,0,9,9\n3.jpg,0,0,2,2\n", distractors="more", query=lists)
    [query] = dataset.queries()
    assert dataset.relevance(query).junk == {"distractors/1.jpg"}
    assert dataset.images()[-1].name == "distractors/1.jpg"
    assert dataset.boxes() == {"c/3.jpg": [(0, 0, 2, 2)]}


def test_what_is_excluded_is_no_positive_and_keys_of_ones_own_stay(tmp_path: Path) -> None:
    dataset = manifest(tmp_path, query={"positives": [ONE, TWO], "exclude": [TWO], "note": "seen twice"})
    [query] = dataset.queries()
    assert dataset.relevance(query).good == {ONE}
    assert dataset.relevance(query).exclude == {TWO}

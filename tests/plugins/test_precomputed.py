"""Boxes out of a table: cut to the picture, ordered, and what is no table of boxes."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from instsearch_cli.data import Inputs
from instsearch_cli.errors import InstsearchError, UsageError
from instsearch_cli.progress import Quiet
from instsearch_cli.testing import DetectorContract
from instsearch_plugins.detectors.precomputed import Precomputed

CPU = torch.device("cpu")


class Named:
    """A collection of images of these names."""

    encoder: Any = None
    weighter: Any = None

    def __init__(self, *names: str) -> None:
        self.names, self.images, self.span = names, np.arange(len(names)), range(len(names))

    def inputs(self, kinds: Any, rows: Any = None) -> Iterator[Inputs]:
        return (Inputs(size=(100, 80), row=row, name=name) for row, name in enumerate(self.names))


def detected(path: Path, text: str, name: str = "a.jpg", **options: Any) -> list[list[float]]:
    path.write_text(text, "utf-8")
    regions = Precomputed(Precomputed.Config(file=str(path), **options), CPU).detect(
        Inputs(size=(100, 80), name=name)
    )
    return torch.cat([regions.boxes, regions.scores[:, None]], 1).tolist()


def test_an_images_boxes_are_the_best_first_and_within_the_picture(tmp_path: Path) -> None:
    text = "image,x,y,w,h,score\na.jpg,10,20,30,40,0.25\nb.jpg,1,1,1,1,9\na.jpg,-5,60,20,40,0.5\na.jpg,200,0,5,5,1\n"
    assert detected(tmp_path / "t.csv", text) == [[0, 60, 15, 80, 0.5], [10, 20, 40, 60, 0.25]]
    assert detected(tmp_path / "t.csv", text, most=1) == [[0, 60, 15, 80, 0.5]]
    assert detected(tmp_path / "t.csv", text, name="c.jpg") == [[0, 0, 100, 80, 0]]
    huge = "image,x,y,w,h\na.jpg ,-1e38,-1e38,2e38,2e38\n"
    assert detected(tmp_path / "t.csv", huge) == [[0, 0, 100, 80, 1]]
    other = "h,w,image,y,x\n4,3,a.jpg,2,1\n"
    assert detected(tmp_path / "t.csv", other) == [[1, 2, 4, 6, 1]]


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("image,x,y,w\na.jpg,1,2,3\n", "wanted the columns image,x,y,w,h"),
        ("image,x,y,w,h\na.jpg,1,2,3,wide\n", "line 2: no box"),
        ("image,x,y,w,h\na.jpg,1,2,0,4\n", "line 2: no box"),
        ("image,x,y,w,h\na.jpg,1,2,nan,4\n", "line 2: no box"),
        ("image,x,y,w,h\na.jpg,1,2,1e39,4\n", "line 2: no box"),
        ("image,x,y,w,h,score\na.jpg,1,2,3,4,1e300\n", "line 2: no box .* and a score that is one"),
        ("image,x,y,w,h,score,score\na.jpg,1,2,3,4,1,2\n", "each once; it is 'image,x,y,w,h,score,score'"),
        ("image;x;y;w;h\na.jpg;1;2;3;4\n", "wanted the columns image,x,y,w,h, .* it is 'image;x;y;w;h'"),
        ("image,x,y,w,h\n", "t.csv has no box"),
    ],
)
def test_what_is_no_table_of_boxes(tmp_path: Path, text: str, said: str) -> None:
    with pytest.raises(InstsearchError, match=said):
        detected(tmp_path / "t.csv", text)


def test_a_table_of_other_images_is_refused_and_show_says_which_images_have_none(tmp_path: Path) -> None:
    (tmp_path / "t.csv").write_text("image,x,y,w,h\nb.jpg,1,2,3,4\n", "utf-8")
    detector = Precomputed(Precomputed.Config(file=str(tmp_path / "t.csv")), CPU)
    with pytest.raises(InstsearchError, match=r"boxes of none of the 2 images, its first is of b\.jpg"):
        detector.fit(Named("a.jpg", "photos/b.jpg"), Quiet())
    assert detector.fit(Named("a.jpg", "b.jpg"), Quiet()) == {"images": 1}
    for name, caption in (
        ("a.jpg", "no box of a.jpg: the whole picture"),
        ("b.jpg", "boxes of the table: 1"),
    ):
        inputs = Inputs(size=(100, 80), name=name)
        [drawing] = detector.explain(replace(inputs, regions=detector.detect(inputs)))
        assert drawing.caption == caption


def test_a_file_has_to_be_there_and_decides(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"--set detector\.file"):
        Precomputed(Precomputed.Config(), CPU).identity()
    with pytest.raises(UsageError, match="there is no file"):
        Precomputed(Precomputed.Config(file=str(tmp_path / "none.csv")), CPU).identity()
    path = tmp_path / "t.csv"
    digests = []
    for x in (1, 2):
        detected(path, f"image,x,y,w,h\na.jpg,{x},2,30,4\n")
        digests.append(Precomputed(Precomputed.Config(file=str(path)), CPU).identity()["file"])
    assert digests[0] != digests[1]


class TestPrecomputed(DetectorContract):
    component = Precomputed

    @pytest.fixture(autouse=True)
    def _table(self, tmp_path: Path) -> None:
        (tmp_path / "t.csv").write_text("image,x,y,w,h\nimage 0,10,20,30,40\n", "utf-8")
        self.options = {"file": str(tmp_path / "t.csv")}

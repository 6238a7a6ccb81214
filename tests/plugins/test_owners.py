"""Which image owns which rows that are searched, and where in its picture each lies."""

from __future__ import annotations

import numpy as np
import pytest

from instsearch_cli.errors import InstsearchError
from instsearch_formats.declared import check
from instsearch_plugins.numeric import ranking
from instsearch_plugins.numeric.ranking import OWNERS, Gathered, Owners
from stored_codes import StoredCodes

COUNTS = [2, 3, 0, 2, 3, 2]


@pytest.mark.parametrize(("most", "kept"), [(0, 12), (1, 8), (100, 5)])
def test_images_share_the_boxes_of_a_grid(tmp_path, monkeypatch, most, kept):
    monkeypatch.setattr(ranking, "SHARED", most)
    data = StoredCodes(np.ones((sum(COUNTS), 1)), COUNTS, start=7, folder=tmp_path)
    grids = {n: np.arange(4 * n, dtype=np.float32).reshape(n, 4) + n for n in COUNTS}
    data.boxes = np.concatenate([grids[n] for n in COUNTS])
    gathered = Gathered(data, tmp_path)
    for block in data.blocks("codes"):
        gathered.add(block, block["indptr"])
    state = gathered.state()
    check(state, OWNERS, n=6, start=7)
    assert len(state["layout-boxes"]) == kept
    owners = Owners.of_state(state)
    np.testing.assert_array_equal(owners.boxes_of(np.arange(owners.rows)), data.boxes)
    rows = np.array([11, 4, 0])
    np.testing.assert_array_equal(owners.boxes_of(rows), data.boxes[rows])


def test_what_earlier_releases_wrote_has_the_boxes_of_all_rows():
    boxes = np.arange(20, dtype=np.float32).reshape(5, 4)
    state = {"start": np.array([3]), "images": np.array([0, 2, 2, 5]), "boxes": boxes}
    check(state, OWNERS, n=3, start=3)
    np.testing.assert_array_equal(Owners.of_state(state).boxes_of(np.arange(5)), boxes)
    with pytest.raises(ValueError, match="from 0 to 4"):
        check(state | {"boxes": boxes[1:]}, OWNERS, n=3, start=3)
    del state["boxes"]
    with pytest.raises(InstsearchError, match="no boxes"):
        Owners.of_state(state)

from __future__ import annotations

import re
from typing import Any

import cv2
import numpy as np
import pytest
import torch

from aligned_photographs import (
    ELSEWHERE,
    GONE,
    OTHER_SIDE,
    SIZE,
    TRUE,
    TWIN,
    Collection,
    comparisons,
    query,
)
from instsearch_cli.data import Grid, Hits, Words
from instsearch_cli.errors import InstsearchError, UsageError
from instsearch_plugins.numeric.appearance import Compared
from instsearch_plugins.rerankers.aligned import LAST, Aligned, in_words
from twin_labels import LABEL


def after(rows, scores, data: Any = None, boxes: Any = None, **options) -> dict[int, float]:
    hits = Hits.stack([(np.array(rows), np.float32(scores), boxes)], len(rows))
    reranker = Aligned(Aligned.Config(**options), torch.device("cpu"))
    found = reranker.rerank([query()], hits, data or Collection(), lambda queries, k: hits)
    assert (np.diff(found.scores[0]) <= 0).all()
    return dict(zip(found.images[0].tolist(), found.scores[0].tolist(), strict=True))


def test_a_twin_falls_behind_the_object():
    found = after([TWIN, TRUE], [8.1, 8.0])
    assert list(found) == [TRUE, TWIN]
    assert found[TRUE] > 8.0
    assert found[TRUE] - found[TWIN] > 0.5


def test_the_score_is_the_formula():
    data: Any = Collection()
    c = Aligned.Config()
    one = comparisons(np.array([TRUE]), data)[TRUE]
    assert one is not None
    against = c.bias + c.disagreement * one.disagreement + c.hue * one.hue
    for score, share in ((3.0, 0), (5.0, 0), (7.5, 0.5), (10.0, 1), (12.0, 1)):
        x = (
            score
            + c.agreement * max(min(one.agreement * one.detail, c.enough) - c.chance, 0)
            - share * against
        )
        expected = c.least + np.log(1 + np.exp(x - c.least))
        assert after([TRUE], [score])[TRUE] == pytest.approx(expected, rel=1e-5)


class Small(Collection):
    """The object's photograph is read with a share of the pixels along its sides."""

    def __init__(self, share: float) -> None:
        super().__init__()
        size = round(SIZE[0] * share), round(SIZE[1] * share)
        self.pictures[TRUE] = cv2.resize(self.pictures[TRUE], size, interpolation=cv2.INTER_AREA)


def test_what_is_enlarged_counts_less_and_what_agrees_by_chance_nothing():
    c = Aligned.Config()
    for share in (0.5, 0.25):
        data: Any = Small(share)
        one = comparisons(np.array([TRUE]), data)[TRUE]
        assert one is not None
        assert one.detail == pytest.approx(0.9 * share, rel=0.2)  # the template is as large as the label
        x = 4.0 + c.agreement * max(min(one.agreement * one.detail, c.enough) - c.chance, 0)
        expected = c.least + np.log(1 + np.exp(x - c.least))
        assert after([TRUE], [4.0], data)[TRUE] == pytest.approx(expected, rel=1e-5)
        assert after([TRUE], [4.0], data, chance=1.0)[TRUE] == 4.0


def test_a_hit_that_no_keypoints_align_is_aligned_by_where_it_was_found():
    data: Any = Collection()
    data.pictures[ELSEWHERE] = np.pad(LABEL[30:222, 40:232], ((60, 88), (100, 108), (0, 0)))
    there, beside = np.float32([[100, 60, 292, 252]]), np.float32([[10, 60, 202, 252]])
    found = after([ELSEWHERE], [3.5], data, there)[ELSEWHERE]
    x = 3.5 + Aligned.Config().agreement * (0.6 - 0.08)
    assert found == pytest.approx(2.5 + np.log(1 + np.exp(x - 2.5)), rel=1e-5)
    assert after([ELSEWHERE], [3.5], data, beside)[ELSEWHERE] == 3.5  # nothing agrees there
    assert after([ELSEWHERE], [3.5], data)[ELSEWHERE] == 3.5
    assert after([ELSEWHERE], [3.5], data, there, located=3.6)[ELSEWHERE] == 3.5
    reranker = Aligned(Aligned.Config(), torch.device("cpu"))
    assert reranker.beside(query(), ELSEWHERE, data) is None
    assert reranker.beside(query(), ELSEWHERE, data, beside[0]) is None
    shown = reranker.beside(query(), ELSEWHERE, data, there[0])
    assert shown is not None
    assert shown.agreement > 0.6


def test_a_photograph_that_is_gone_keeps_its_score():
    found = after([GONE, TWIN], [5.0, 4.0])
    assert found[GONE] == 5.0
    assert found[TWIN] != 4.0


def test_a_hit_that_is_not_aligned_keeps_its_score_and_none_falls_below_the_least():
    assert after([ELSEWHERE], [4.0])[ELSEWHERE] == 4.0
    assert after([ELSEWHERE], [7.0])[ELSEWHERE] == 7.0
    data: Any = Collection()
    assert after([TRUE], [2.4], data)[TRUE] == pytest.approx(2.4)
    assert data.read == []  # it is not looked at
    found = after([TWIN, ELSEWHERE], [8.5, 2.49], bias=50.0)
    assert list(found) == [TWIN, ELSEWHERE]
    assert 2.5 <= found[TWIN] < 2.51


def test_what_the_query_does_not_show_is_aligned_by_a_hit_that_does():
    """OTHER_SIDE shares no word with the query, but 60 with TRUE."""
    alone, helped = after([OTHER_SIDE], [4.0]), after([TRUE, OTHER_SIDE], [5.0, 4.0])
    assert alone[OTHER_SIDE] == 4.0
    assert helped[OTHER_SIDE] > 4.0


def test_hits_further_down_change_as_the_last_ones_do():
    data = Collection()
    found = after([TRUE, TWIN, ELSEWHERE, OTHER_SIDE], [6.0, 5.5, 5.0, 0.5], data, depth=2)
    least = Aligned.Config.least
    before = {row: least + np.log(np.exp(found[row] - least) - 1) for row in (TRUE, TWIN, ELSEWHERE)}
    changes = [before[TRUE] - 6.0, before[TWIN] - 5.5]
    assert len(changes) < LAST
    assert before[ELSEWHERE] == pytest.approx(5.0 + np.mean(changes), rel=1e-4)
    assert found[OTHER_SIDE] == 0.5  # not verified
    assert sorted(data.read) == [TRUE, TWIN]


def test_nothing_to_look_at():
    assert after([GONE], [5.0]) == {GONE: 5.0}
    reranker = Aligned(Aligned.Config(), torch.device("cpu"))
    data: Any = Collection()
    empty = Hits.stack([(np.zeros(0, np.int64), np.zeros(0, np.float32), None)], 2)
    assert reranker.rerank([query()], empty, data, lambda queries, k: empty).valid(0) == 0


def test_maps_are_a_usage_error():
    reranker, data = Aligned(Aligned.Config(), torch.device("cpu")), Collection()
    flat: Any = Words(torch.zeros(4, 4), Grid.nominal(SIZE))
    hits = Hits.stack([(np.array([TRUE]), np.float32([2]), None)], 1)
    with pytest.raises(UsageError, match="words at keypoints"):
        reranker.rerank([query(flat)], hits, data, lambda queries, k: hits)


def test_what_is_aligned_elsewhere_than_it_was_found_is_not_compared():
    """The words agree on another place than the hit's box: the hit keeps its score, as one that is not aligned."""
    data: Any = Collection()
    here = np.array([[90.0, 30.0, 250.0, 260.0]], np.float32)
    there = np.array([[380.0, 320.0, 399.0, 339.0]], np.float32)
    assert comparisons(np.array([TRUE]), data, here)[TRUE] is not None
    assert comparisons(np.array([TRUE]), data, there)[TRUE] is None
    assert comparisons(np.array([TRUE]), data, here * np.nan)[TRUE] is not None


def test_beside_shows_the_very_comparison():
    data: Any = Collection()
    reranker = Aligned(Aligned.Config(), torch.device("cpu"))
    one = comparisons(np.array([TWIN]), data)[TWIN]
    found = reranker.beside(query(), TWIN, data)
    assert one is not None
    assert found is not None
    assert (found.agreement, found.disagreement) == (one.agreement, one.disagreement)
    h, w = one.own.shape[:2]
    assert found.picture.shape == (3 * h, 6 * w + 16, 3)
    assert found.picture.dtype == np.uint8
    share = re.fullmatch(
        r"(\d+) % of what the box shows agrees; (\d+) % lies among it and differs\.", found.text
    )
    assert share is not None
    assert [int(n) for n in share.groups()] == [round(100 * one.agreement), round(100 * one.disagreement)]


def test_beside_nothing():
    """Without words in common there is none; a photograph that is gone is an error."""
    data: Any = Collection()
    reranker = Aligned(Aligned.Config(), torch.device("cpu"))
    assert reranker.beside(query(), ELSEWHERE, data) is None
    assert reranker.beside(query(), OTHER_SIDE, data) is None  # by the help of others only
    with pytest.raises(InstsearchError, match="gone"):
        reranker.beside(query(), GONE, data)


def test_what_was_compared_in_words():
    nothing, everywhere = np.zeros((8, 8, 3), np.uint8), np.ones((3, 3), bool)
    ninth, ones = np.full((3, 3), 1 / 9, np.float32), np.ones((3, 3), np.float32)
    one = Compared(nothing, nothing, np.eye(3), ones, everywhere, ninth, ones)
    assert in_words(one) == "100 % of what the box shows agrees, and nothing among it differs."
    differs = one._replace(ncc=np.float32([[1, 1, 1], [1, 0, 1], [1, 1, 1]]))
    assert in_words(differs) == "89 % of what the box shows agrees; 11 % lies among it and differs."
    faint = differs._replace(texture=ones / 100)
    assert in_words(faint) == "89 % of what the box shows agrees; less than 1 % lies among it and differs."
    assert in_words(one._replace(region=~everywhere)).startswith("Nothing in the box agrees")


@pytest.mark.parametrize(
    "options",
    [{"ramp": 0.0}, {"depth": 0}, {"min_inliers": 0}, {"ht": 65}, {"tolerance": 0.0}, {"degrees": -1.0}],
)
def test_options_out_of_range(options):
    with pytest.raises(ValueError, match=r"at least 1|above 0"):
        Aligned.Config(**options)

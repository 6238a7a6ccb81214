from __future__ import annotations

import re
from dataclasses import replace
from typing import Any

import cv2
import numpy as np
import pytest
import torch

from instsearch_cli.data import Grid, Hits, Image, Inputs, Query, Words
from instsearch_cli.errors import InstsearchError, UsageError
from instsearch_plugins.numeric.appearance import Compared, common, recompared
from instsearch_plugins.numeric.discriminant import colours, discriminant, levels
from instsearch_plugins.rerankers.aligned import LAST, Aligned, in_words
from instsearch_plugins.rerankers.comparing import Comparing
from twin_labels import BOX, LABEL, photograph, twin

K = 500
SIZE = (400, 340)
TRUE, TWIN, GONE, ELSEWHERE, OTHER_SIDE = range(5)


def keypoints(seed: int, n: int = 60) -> np.ndarray:
    rng = np.random.default_rng(seed)
    x, y = rng.uniform(BOX[0], BOX[2], n), rng.uniform(BOX[1], BOX[3], n)
    return np.stack([x, y, rng.uniform(2, 8, n), rng.uniform(0, 360, n)], 1).astype(np.float32)


def seen(geometry: np.ndarray) -> np.ndarray:
    """Where photographs have keypoints of the label."""
    H = np.array([[0.8, -0.2, 90], [0.2, 0.8, 30], [2e-4, 0, 1]])
    x = np.column_stack([geometry[:, :2], np.ones(len(geometry))]) @ H.T
    turn = np.degrees(np.arctan2(0.2, 0.8))
    there = [x[:, :2] / x[:, 2:], geometry[:, 2:3] * 0.82, (geometry[:, 3:] + turn) % 360]
    return np.concatenate(there, axis=1).astype(np.float32)


def words(numbers: np.ndarray, geometry: np.ndarray) -> Words:
    return Words(
        torch.from_numpy(numbers.astype(np.int32)), Grid.nominal(SIZE), torch.from_numpy(geometry), K
    )


OWN, MORE = keypoints(0), keypoints(1)
NUMBERS = np.random.default_rng(0).permutation(K)
LOCAL = words(NUMBERS[:60], OWN)
VISIBLE = words(NUMBERS[:120], seen(np.concatenate([OWN, MORE])))


class Collection:
    """Photographs: of the object, of its twin, one that is gone, one of nothing, and one of other keypoints of it."""

    encoder: Any = None

    def __init__(self) -> None:
        nothing = words(NUMBERS[200:260], keypoints(5))
        known = words(NUMBERS[60:120], seen(MORE))
        self.local = {TRUE: VISIBLE, TWIN: VISIBLE, GONE: VISIBLE, ELSEWHERE: nothing, OTHER_SIDE: known}
        labels = {TRUE: LABEL, TWIN: twin(), ELSEWHERE: LABEL[::-1], OTHER_SIDE: LABEL}
        self.pictures = {row: photograph(label)[0] for row, label in labels.items()}
        self.read: list[int] = []

    def inputs(self, kinds, rows):
        for row in map(int, rows):
            image = None
            if "image" in kinds:
                self.read.append(row)
                if row not in self.pictures:
                    raise InstsearchError("gone")
                image = Image(self.pictures[row], SIZE)
            yield Inputs(size=SIZE, row=row, local=self.local[row] if "local" in kinds else None, image=image)


def query(local: Any = LOCAL, box=BOX) -> Query:
    nothing: Any = None
    return Query("q", Image(LABEL, (280, 260)), box, nothing, local, nothing)


def after(rows, scores, data: Any = None, boxes: Any = None, **options) -> dict[int, float]:
    hits = Hits.stack([(np.array(rows), np.float32(scores), boxes)], len(rows))
    reranker = Aligned(Aligned.Config(**options), torch.device("cpu"))
    found = reranker.rerank([query()], hits, data or Collection(), lambda queries, k: hits)
    assert (np.diff(found.scores[0]) <= 0).all()
    return dict(zip(found.images[0].tolist(), found.scores[0].tolist(), strict=True))


def comparisons(rows: np.ndarray, data: Any, boxes: np.ndarray | None = None) -> dict[int, Compared | None]:
    comparing = Comparing(query(), data, Aligned.Config())
    comparing.look(rows, boxes)
    return comparing.found


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


SURE = [TRUE, 10, 11, 12]  # photographs of the object, each with noise of its own
NEW = 13
TWINS = [20, 21, 22]


class Many(Collection):
    """More photographs of the object, one of which (NEW) only a wider query finds; expanding gives codes of words."""

    def __init__(self) -> None:
        super().__init__()
        for seed, row in enumerate([*SURE[1:], NEW], start=1):
            self.local[row] = VISIBLE
            self.pictures[row] = photograph(LABEL, seed)[0]
        for seed, row in enumerate(TWINS, start=9):
            self.local[row] = VISIBLE
            self.pictures[row] = photograph(twin(), seed)[0]
        self.encoder = self

    def aggregate(self, local: Words, weights: Any, detections: Any) -> int:
        return len(local.words)


class Wider:
    """A search that remembers what it was asked, and finds the sure hits, the twin and NEW."""

    def __init__(self) -> None:
        self.asked: list[Query] = []
        rows, scores = [*SURE, NEW, TWIN], [9.0, 9.0, 9.0, 9.0, 8.0, 7.0]
        self.scores = dict(zip(rows, scores, strict=True))
        self.boxes = np.tile(np.float32([90, 30, 280, 300]), (len(rows), 1))
        self.hits = Hits.stack([(np.array(rows), np.float32(scores), self.boxes)], len(rows))

    def __call__(self, queries: Any, k: int) -> Hits:
        self.asked += queries
        return self.hits


def asked_again(hits: dict[int, float], against: bool = False, **options: Any) -> tuple[Hits, Wider]:
    wider = Wider()
    before = Hits.stack([(np.array(list(hits)), np.float32(list(hits.values())), None)], 12)
    reranker = Aligned(Aligned.Config(**{"sure": 5.0, "many": 1, **options}), torch.device("cpu"))
    data: Any = Many()
    return reranker.rerank([replace(query(), against=against)], before, data, wider), wider


HITS = {**dict.fromkeys(SURE, 5.0), TWIN: 5.0, ELSEWHERE: 4.0, GONE: 0.5}


def listed(found: Hits) -> dict[int, float]:
    n = found.valid(0)
    return dict(zip(found.images[0, :n].tolist(), found.scores[0, :n].tolist(), strict=True))


def by_hand(
    hits: dict[int, float], wider: Wider, certain: float | None = None, least: float = 5.0
) -> tuple[dict[int, float], dict[int, float]]:
    """Scores of looking once, and x: the photographs as aligned, their median, and what each has in common with it.

    And what tells those that are ``certain`` from those of the others that come last by all the rest.
    """
    c = Aligned.Config()
    data: Any = Many()
    first = listed(asked_again(hits, again=0)[0])
    compared = [*SURE, NEW, *(row for row in hits if row in (TWIN, *TWINS))]
    one = comparisons(np.array(compared), data)
    sure = sorted((row for row in first if first[row] >= least), key=lambda row: -first[row])
    assert set(SURE) <= set(sure)
    pictures = [seen.picture for row in sure if (seen := one[row]) is not None]
    whole, without = common(np.stack(pictures))
    own = dict(zip(sure, without, strict=True))
    again = {row: recompared(seen, own.get(row, whole)) for row, seen in one.items() if seen is not None}
    a = np.median([again[row].agreement for row in sure])
    h = np.median([again[row].hue for row in sure])
    x = {ELSEWHERE: c.first * first[ELSEWHERE], GONE: -9.0}  # neither is compared, nor found again
    for row in compared:
        x[row] = c.first * first.get(row, 0) + c.wider * wider.scores.get(row, 0) + c.alike
        x[row] += c.common * min(again[row].agreement / a, 1)
        x[row] -= c.common_hue * max(0, np.log((again[row].hue + 0.01) / (h + 0.01)))
    if certain is None:
        return first, x
    some = np.array([first.get(row, 0) >= certain for row in compared])
    before = np.array([x[row] for row in compared])
    refused = ~some & (before <= np.median(before[~some]))
    differing = [
        colours(seen.picture, levels(whole.picture), seen.corners > 0)
        for row in compared
        if (seen := one[row])
    ]
    for row, d in zip(compared, discriminant(np.stack(differing), some, refused), strict=True):
        x[row] += c.telling * d
    return first, x


def test_where_many_are_sure_it_is_asked_again_with_their_keypoints():
    found, wider = asked_again(HITS, again=4, certain=99.0)
    assert len(wider.asked[0].local.words) > len(LOCAL.words)
    first, x = by_hand(HITS, wider)
    hits = listed(found)
    assert set(hits) == set(x)
    assert (np.diff([x[row] for row in hits]) <= 1e-4).all()
    assert list(hits.values()) == sorted([*first.values(), 0.0], reverse=True)  # as they were
    place = found.images[0].tolist().index(NEW)
    assert found.boxes[0, place].tolist() == wider.boxes[0].tolist()


def test_where_enough_are_certain_their_look_alikes_score_less_than_before():
    hits = {**HITS, **dict.fromkeys([TWIN, *TWINS], 3.4)}
    found, wider = asked_again(hits, again=4, sure=9.0, certain=9.0)
    first, x = by_hand(hits, wider, 9.0, 9.0)
    scores = listed(found)
    for row in (*SURE, NEW, TWIN, *TWINS, ELSEWHERE):
        assert scores[row] == pytest.approx(2.5 + np.log(1 + np.exp(x[row] - 2.5)), abs=1e-3)
    assert scores[GONE] == first[GONE] == 0.5
    assert min(scores[row] for row in SURE) > max(scores[row] for row in (TWIN, *TWINS)) + 3
    assert min(first[row] for row in SURE) < max(first[row] for row in (TWIN, *TWINS)) + 2


@pytest.mark.parametrize(
    "options", [{"again": 0}, {"again": 7}, {"again": 4, "sure": 50.0}, {"again": 4, "many": 6}]
)
def test_where_few_are_sure_it_is_not_asked_again(options):
    found, wider = asked_again(HITS, **options)
    assert wider.asked == []
    assert NEW not in found.images[0]


@pytest.mark.parametrize("by", [-0.01, 0.01])
def test_sure_hits_that_differ_from_each_other_are_not_asked_with(by):
    sure = [TRUE, 10, *TWINS]
    one = [seen for seen in comparisons(np.array(sure), Many()).values() if seen]
    others = common(np.stack([seen.picture for seen in one]))[1]
    c = Aligned.Config()
    again = [recompared(seen, own) for seen, own in zip(one, others, strict=True)]
    unlike = float(np.median([c.disagreement * seen.disagreement + c.hue * seen.hue for seen in again])) + by
    assert unlike > 1
    hits = {**dict.fromkeys(sure, 8.0), ELSEWHERE: 4.0}
    found, wider = asked_again(hits, again=4, unlike=unlike)
    assert bool(wider.asked) == (by > 0)
    if by < 0:
        assert listed(found) == listed(asked_again(hits, again=0)[0])


def test_what_an_object_is_not_is_asked_once():
    found, wider = asked_again(HITS, against=True, again=4)
    assert wider.asked == []
    assert listed(found) == listed(asked_again(HITS, again=0)[0])


def test_one_sure_hit_has_nothing_in_common():
    with pytest.raises(ValueError, match="2 at least"):
        Aligned.Config(again=1)


@pytest.mark.parametrize(
    "options",
    [{"ramp": 0.0}, {"depth": 0}, {"min_inliers": 0}, {"ht": 65}, {"tolerance": 0.0}, {"degrees": -1.0}],
)
def test_options_out_of_range(options):
    with pytest.raises(ValueError, match=r"at least 1|above 0"):
        Aligned.Config(**options)

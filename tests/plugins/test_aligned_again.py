from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

from aligned_photographs import (
    ELSEWHERE,
    GONE,
    LOCAL,
    TRUE,
    TWIN,
    VISIBLE,
    Collection,
    comparisons,
    query,
)
from instsearch_cli.data import Hits, Query, Words
from instsearch_plugins.numeric.appearance import common, recompared
from instsearch_plugins.numeric.discriminant import colours, discriminant, levels
from instsearch_plugins.rerankers.aligned import Aligned
from twin_labels import LABEL, photograph, twin

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

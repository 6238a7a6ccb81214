"""Photographs of a label and of its twin, with words at keypoints, and what comparing them with the label gives."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import numpy as np

from instsearch_cli.data import Box, Grid, Image, Inputs, Query, Words
from instsearch_cli.errors import InstsearchError
from instsearch_plugins.numeric.appearance import Compared
from instsearch_plugins.rerankers.aligned import Aligned
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
    return Words(numbers.astype(np.int32), Grid.nominal(SIZE), geometry, K)


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

    def inputs(self, kinds: Sequence[str], rows: Iterable[int]) -> Iterator[Inputs]:
        for row in map(int, rows):
            image = None
            if "image" in kinds:
                self.read.append(row)
                if row not in self.pictures:
                    raise InstsearchError("gone")
                image = Image(self.pictures[row], SIZE)
            yield Inputs(size=SIZE, row=row, local=self.local[row] if "local" in kinds else None, image=image)


def query(local: Any = LOCAL, box: Box | None = BOX) -> Query:
    nothing: Any = None
    return Query("q", Image(LABEL, (280, 260)), box, nothing, local, nothing)


def comparisons(rows: np.ndarray, data: Any, boxes: np.ndarray | None = None) -> dict[int, Compared | None]:
    comparing = Comparing(query(), data, Aligned.Config())
    comparing.look(rows, boxes)
    return comparing.found

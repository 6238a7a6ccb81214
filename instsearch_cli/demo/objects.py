"""Nine families of printed things, each drawn from a seed.

Things of one family look alike and are told apart by what is printed on them.
"""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING

import numpy as np

from instsearch_cli.demo.artwork import NAMES, Thing
from instsearch_cli.demo.sheets import badge, card, poster, rug, sign, stamp
from instsearch_cli.demo.solids import book, carton, tin

if TYPE_CHECKING:
    from collections.abc import Callable

FAMILIES: dict[str, Callable[[np.random.Generator, str], Thing]] = {
    make.__name__: make for make in (tin, carton, book, poster, badge, stamp, sign, rug, card)
}

WANTED = ("tin", "carton", "book", "poster", "badge", "stamp", "sign", "rug", "card", "carton", "tin", "book")
"""The families of the objects to be found, in order."""


def wanted(seed: int) -> list[Thing]:
    """The twelve objects of a seed; each has a name that nothing else bears."""
    names = np.random.default_rng([seed, 0]).permutation(NAMES)[: len(WANTED)]
    return [_thing(f, (seed, 1, i), str(name)) for i, (f, name) in enumerate(zip(WANTED, names, strict=True))]


def others(seed: int, each: int = 6) -> list[Thing]:
    """Things of a seed to be taken for the objects: ``each`` of every family."""
    names = np.random.default_rng([seed, 0]).permutation(NAMES)[len(WANTED) :]
    return [
        _thing(family, (seed, 2, i, j), str(names[(i * each + j) % len(names)]))
        for i, family in enumerate(FAMILIES)
        for j in range(each)
    ]


@functools.lru_cache(maxsize=256)
def _thing(family: str, seed: tuple[int, ...], name: str) -> Thing:
    return FAMILIES[family](np.random.default_rng(seed), name)

"""What the named arrays of a model or of a search segment must be, said beforehand by whoever reads them.

Compiled code trusts lengths and indices. So arrays that come out of a file are compared with what their reader declared
before it sees them; what of them is only read when it is used is looked at by that reader then.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from instsearch_formats.datasets import finite

if TYPE_CHECKING:
    from collections.abc import Mapping


@dataclass(frozen=True)
class Array:
    """One named array.

    dtypes    what it may be: "f4", or several, "u2 i4"
    shape     each axis's length: a number, or a name that stands for one length in all arrays: "R", "R+1". Of a segment
              "n" is how many rows it has, and "start" the first of them
    group     an optional array: all of one group are there, or none
    climbs    the name of a length: it runs from 0 to that, which it sets where no shape does, and never falls
    below     the name of a length, or a number: whole numbers from 0 on that are below it
    equals    the name of a length: all of it is that
    spans     the names of an array that climbs and of a length: as many from each on as that array's next step has
              are below the length
    some      it is not empty
    unread    it may be large, and is read only when it is used: only its dtype and shape are looked at
    """

    dtypes: str
    shape: tuple[int | str, ...] = ()
    group: str = ""
    climbs: str = ""
    below: str | int = ""
    equals: str = ""
    spans: tuple[str, str] | None = None
    some: bool = False
    unread: bool = False


def check(arrays: Mapping[str, np.ndarray], wanted: Mapping[str, Array], **lengths: int) -> None:
    """Raises ValueError for the first array that is not as declared. ``lengths`` are those that are given already."""
    groups = {array.group for name, array in wanted.items() if name in arrays}
    there = {name: array for name, array in wanted.items() if not array.group or array.group in groups}
    for name, array in there.items():
        if name not in arrays:
            raise ValueError(f"{name} is missing")
        _check_shape(name, arrays[name], array, lengths)
    for name, array in there.items():
        if not array.unread:
            _check_values(name, arrays[name], array, lengths)
        if array.spans:
            pointers, limit = arrays[array.spans[0]], lengths[array.spans[1]]
            values = arrays[name]
            if ((values < 0) | (values > limit - np.diff(pointers))).any():  # a sum could run over
                raise ValueError(f"{name} reaches out of 0 to {limit}")


def _check_shape(name: str, values: np.ndarray, array: Array, lengths: dict[str, int]) -> None:
    fits = values.ndim == len(array.shape) and values.dtype in [np.dtype(d) for d in array.dtypes.split()]
    for have, want in zip(values.shape, array.shape, strict=False):
        if isinstance(want, str):
            more = want.endswith("+1")
            want = lengths.setdefault(want.removesuffix("+1"), have - more) + more
        fits = fits and have == want >= 0
    fits = fits and (values.size > 0 or not array.some)
    if not fits:
        shape = ", ".join(map(str, array.shape))
        raise ValueError(
            f"{name} is {values.dtype} {list(values.shape)} where {array.dtypes} [{shape}] is wanted"
        )


def _check_values(name: str, values: np.ndarray, array: Array, lengths: dict[str, int]) -> None:
    if not finite(values):
        raise ValueError(f"{name} is not finite")
    if array.climbs:
        end = lengths.setdefault(array.climbs, int(values[-1]) if len(values) else 0)
        ends = len(values) and values[0] == 0 and values[-1] == end
        if not (ends and (values[1:] >= values[:-1]).all()):
            raise ValueError(f"{name} does not run from 0 to {end} without falling")
    if array.below != "" and values.size:
        limit = lengths[array.below] if isinstance(array.below, str) else array.below
        if not 0 <= int(values.min()) <= int(values.max()) < limit:
            raise ValueError(f"{name} runs from {values.min()} to {values.max()}, out of 0 to {limit - 1}")
    if array.equals and (values != lengths[array.equals]).any():
        raise ValueError(f"{name} is {values.reshape(-1)[:1].tolist()}, not {lengths[array.equals]}")

"""Pairs of matching images, to learn from."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from instsearch_cli.errors import InstsearchError, printable
from instsearch_cli.outside.text import csv_rows

if TYPE_CHECKING:
    from collections.abc import Mapping

MOST = 256 << 20  #: bytes of a file of pairs
SHOWN = 5  #: unknown names that are named


def read_pairs(path: str, rows: Mapping[str, int]) -> np.ndarray:
    """The rows of the images that each line of a CSV file names: i64[n, 2].

    ``rows`` gives the row of each name. Raises InstsearchError for a file that cannot be read, a line that has
    not two names, names that are not among ``rows``, counted, and a file without any pair.
    """
    lines = [(i, [name.strip() for name in line]) for i, line in csv_rows(Path(path), MOST)]
    for i, names in lines:
        if len(names) != 2:
            raise InstsearchError(f"{path}, line {i}: a pair is two names of images, not {len(names)}")
    unknown = list(dict.fromkeys(name for _, names in lines for name in names if name not in rows))
    if unknown:
        shown = ", ".join(printable(name)[:200] for name in unknown[:SHOWN]) + (
            ", ..." if len(unknown) > SHOWN else ""
        )
        raise InstsearchError(
            f"{path} names {len(unknown):,} images that are not in the collection: {shown}\n"
            "An image is named as in the hits of a query: by its path below the folder that was indexed."
        )
    if not lines:
        raise InstsearchError(f"{path} has no pair: write the names of two matching images on each line")
    return np.array([[rows[name] for name in names] for _, names in lines], np.int64)

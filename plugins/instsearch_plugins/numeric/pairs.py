"""Pairs of matching images, to learn from."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from instsearch_cli.errors import InstsearchError, printable
from instsearch_cli.outside.text import csv_pairs

if TYPE_CHECKING:
    from collections.abc import Mapping

MOST = 256 << 20  #: bytes of a file of pairs
SHOWN = 5  #: unknown names that are named


def read_pairs(path: str, rows: Mapping[str, int]) -> np.ndarray:
    """The rows of the images that each line of a CSV file names: i64[n, 2].

    ``rows`` gives the row of each name. Raises InstsearchError as :func:`csv_pairs` does, and for names that are not
    among ``rows``, counted.
    """
    pairs = csv_pairs(Path(path), MOST)
    unknown = list(dict.fromkeys(name for names in pairs for name in names if name not in rows))
    if unknown:
        shown = ", ".join(printable(name)[:200] for name in unknown[:SHOWN]) + (
            ", ..." if len(unknown) > SHOWN else ""
        )
        raise InstsearchError(
            f"{path} names {len(unknown):,} images that are not in the collection: {shown}\n"
            "An image is named as in the hits of a query: by its path below the folder that was indexed."
        )
    return np.array([[rows[name] for name in names] for names in pairs], np.int64)

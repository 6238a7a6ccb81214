"""Pairs of images side by side."""

from __future__ import annotations

from typing import TYPE_CHECKING

from instsearch_cli.errors import InstsearchError
from instsearch_cli.images import printable
from instsearch_cli.report.draw import panels
from instsearch_cli.report.pictures import mark, thumbnail

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from instsearch_cli.measure.pairs import Miner, Pair

SIDE = 340  #: longer side of a picture
MOST = 16  #: pairs on a sheet


def write_pairs_sheet(pairs: Sequence[Pair], miner: Miner, path: Path) -> None:
    """Draw up to 16 pairs from the best to the worst as PNG, two a row; a box shows the first in the second.

    Raises InstsearchError for no pairs, and if the file cannot be written.
    """
    n = min(MOST, len(pairs))
    shown = []
    for i in range(n):
        pair = pairs[round(i * (len(pairs) - 1) / max(n - 1, 1))]
        for row, caption in ((pair.a, f"{pair.inliers} inliers"), (pair.b, "")):
            thumb = thumbnail(miner.data.path(row), SIDE)
            if row == pair.b and thumb.size is not None:
                mark(thumb.image, pair.box, thumb.size)
            name = printable(miner.name(row)).replace(": ", ":")
            shown.append((f"{caption}: {name}" if caption else name, thumb.image))
    if not shown:
        raise InstsearchError(f"{path} is not written: there is no pair to show")
    try:
        panels(shown, 4).save(path, "PNG")
    except OSError as error:
        raise InstsearchError(f"cannot write {path}: {error.strerror or error}") from error

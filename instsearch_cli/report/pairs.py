"""Matching pairs: side by side on a sheet, in lines, as JSON."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from instsearch_cli.engine.answer import counted
from instsearch_cli.errors import InstsearchError, printable
from instsearch_cli.report.draw import panels
from instsearch_cli.report.lines import skipped_lines
from instsearch_cli.report.pictures import mark, thumbnail

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from instsearch_cli.measure.pairs import Mined, Miner, Pair

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


def pairs_lines(mined: Mined) -> list[str]:
    """The totals, which add up, and the first images skipped."""
    candidates, pairs = counted(mined.candidates, "candidate"), counted(len(mined.pairs), "pair")
    lines = [
        f"{counted(mined.queried, 'image')}, {candidates} checked, {pairs} of {counted(mined.images, 'image')}",
        f"{candidates} = {pairs} + {mined.rejected:,} with too few inliers"
        + (f" + {mined.capped:,} over --per-image" if mined.capped else ""),
    ]
    if mined.skipped:
        queried = mined.queried - len(mined.skipped)
        lines.append(
            f"{counted(mined.queried, 'image')} = asked {queried:,} + skipped {len(mined.skipped):,}"
        )
    return lines + skipped_lines(mined.skipped)


def pairs_plain(mined: Mined, miner: Miner, wanted: int, written: Sequence[str]) -> dict[str, Any]:
    """The pairs JSON-ready, of so many images wanted, with the files that were written."""
    return {
        "pipeline": miner.pipeline.name,
        "images": {
            "wanted": wanted,
            "asked": mined.queried - len(mined.skipped),
            "skipped": [{"image": name, "reason": reason} for name, reason in mined.skipped],
        },
        "candidates": mined.candidates,
        "rejected": mined.rejected,
        "over per-image": mined.capped,
        "images in pairs": mined.images,
        "pairs": [{"a": miner.name(p.a), "b": miner.name(p.b), "inliers": p.inliers} for p in mined.pairs],
        "stopped": mined.stopped,
        "wrote": list(written),
    }

"""Reading a ground truth that was pickled: containers, numbers, text and arrays of these, and nothing else."""

from __future__ import annotations

import io
from typing import TYPE_CHECKING, Any

from instsearch_cli.errors import InstsearchError
from instsearch_cli.outside import pickles
from instsearch_cli.outside.files import read_bytes

if TYPE_CHECKING:
    from pathlib import Path

LIMIT = 16 << 20


def load_plain(path: Path) -> Any:
    """Read a pickle of containers, numbers, text and numeric arrays (:class:`pickles.Array`).

    Raises InstsearchError naming what else it asks for, or if it is larger than 16 MB, no pickle, or one that holds
    more than its bytes can say.
    """
    data = read_bytes(path, LIMIT)
    try:
        return pickles.load(io.BytesIO(data))
    except pickles.Refused as refused:
        raise InstsearchError(
            f"{path} is refused: it asks for {refused}, and only containers, numbers, text and arrays of "
            "numbers are read from a pickle"
        ) from None
    except Exception as error:  # whatever a broken file makes the reader stumble over
        reason = str(error)[:200] or type(error).__name__
        raise InstsearchError(f"{path} is not a pickle of a ground truth: {reason}") from None

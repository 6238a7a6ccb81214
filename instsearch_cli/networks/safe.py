"""Files of safetensors: names, shapes and numbers, no code."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from instsearch_cli.errors import InstsearchError
from instsearch_cli.networks.checkpoints import LARGEST
from instsearch_cli.outside.files import open_plain

if TYPE_CHECKING:
    from pathlib import Path

    from torch import Tensor

SUFFIX = ".safetensors"


def load_tensors(path: Path) -> dict[str, Tensor]:
    """The tensors of a file by name, on the CPU. Raises InstsearchError for a damaged one, or without safetensors."""
    try:
        from safetensors import SafetensorError
        from safetensors.torch import load_file
    except ImportError as error:
        raise InstsearchError(
            f"{path}: reading it needs safetensors: run `pip install safetensors`"
        ) from error
    open_plain(path, LARGEST).close()
    try:
        tensors: dict[str, Tensor] = load_file(os.fspath(path))
    except (SafetensorError, ValueError, OSError) as error:
        raise InstsearchError(
            f"{path}: not a file of safetensors, or a damaged one ({error}). Download it again."
        ) from error
    return tensors

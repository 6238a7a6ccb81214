"""instsearch: find the very object in a box, and where it is, in a folder of photographs.

What a plugin needs to register itself is here; importing this package imports nothing heavy.
The data types and component protocols are in :mod:`instsearch_cli.data` and
:mod:`instsearch_cli.components`, contract tests in :mod:`instsearch_cli.testing`.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from instsearch_cli.errors import InstsearchError, UsageError

if TYPE_CHECKING:
    from instsearch_cli.hookspecs import hookimpl
    from instsearch_cli.specs import (
        DatasetSpec,
        DetectorSpec,
        EncoderSpec,
        ExtractorSpec,
        RerankerSpec,
        SearcherSpec,
        WeighterSpec,
    )

__version__ = "0.1.0"

__all__ = [
    "DatasetSpec",
    "DetectorSpec",
    "EncoderSpec",
    "ExtractorSpec",
    "InstsearchError",
    "RerankerSpec",
    "SearcherSpec",
    "UsageError",
    "WeighterSpec",
    "__version__",
    "hookimpl",
]


def __getattr__(name: str) -> Any:
    """Import what a plugin asks for when it asks: `instsearch --help` pays for none of it."""
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    home = "hookspecs" if name == "hookimpl" else "specs"
    return getattr(importlib.import_module(f"instsearch_cli.{home}"), name)

"""What the verbs print with --json, as JSON Schema (2020-12): files that lie beside this one."""

from __future__ import annotations

import json
from importlib import resources
from typing import Any

from instsearch_cli.errors import UsageError, nearest

SCHEMAS: dict[str, tuple[str, ...]] = {
    "extract": ("index",),
    "index": ("index",),
    "query": ("query", "query-error", "session"),
    "serve": ("serve",),
    "box": ("box",),
    "eval": ("eval", "eval-comparison", "eval-regions"),
    "saliency": ("saliency", "precision"),
    "reproduce": ("reproduce", "reproduce-list"),
    "classes": ("classes",),
    "pairs": ("pairs",),
    "adapt": ("adapt",),
    "estimate": ("estimate",),
    "train": ("train",),
    "add": ("index",),
    "sync": ("sync",),
    "remove": ("remove",),
    "restore": ("restore",),
    "relocate": ("relocate",),
    "info": ("info",),
    "verify": ("verify",),
    "gc": ("gc",),
    "export": ("export",),
    "show": ("show",),
    "demo": ("demo",),
    "plugins": ("plugins", "plugin"),
    "presets": ("presets", "preset"),
    "weights": ("weights", "weights-import"),
}
"""The schemas of each verb; "error" is of them all."""


def schema(name: str) -> dict[str, Any]:
    """The schema of that name, "saliency" say. Raises UsageError with the nearest."""
    names = [file.name.removesuffix(".json") for file in _folder().iterdir()]
    if name not in names:
        raise UsageError(f"there is no schema '{name}'.{nearest(name, names)}")
    loaded: dict[str, Any] = json.loads(_folder().joinpath(f"{name}.json").read_text("utf-8"))
    return loaded


def _folder() -> Any:
    return resources.files("instsearch_cli.report").joinpath("schemas")

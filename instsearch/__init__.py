"""Visual instance search in Python: find the very object in a box, and where it is, in a folder of photographs.

    import instsearch

    index = instsearch.create("my-index")
    index.add("photos")
    for hit in index.query("mug.jpg", box=(120, 80, 200, 240)):
        print(hit.score, hit.path, hit.box)

Boxes are x, y, width and height in pixels of the upright picture. What goes wrong is an InstsearchError, in the words
of the command line. Importing this package imports nothing heavy; the names below are imported when they are used.
"""

from __future__ import annotations

import importlib
from operator import attrgetter
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from instsearch_cli import InstsearchError, UsageError, __version__
    from instsearch_cli.demo import make_scenes as demo
    from instsearch_cli.engine.answer import Answer, Hit, View
    from instsearch_cli.engine.arrays import Arrays
    from instsearch_cli.engine.listing import import_weights, plugins, preset, presets, weights
    from instsearch_cli.engine.memory import reuse_memory
    from instsearch_cli.engine.session import Index
    from instsearch_cli.engine.teaching import train
    from instsearch_cli.engine.together import query, query_many
    from instsearch_cli.errors import IndexInUse
    from instsearch_cli.measure.adapting import adapt
    from instsearch_cli.measure.classes import classes
    from instsearch_cli.measure.comparison import compare
    from instsearch_cli.measure.estimating import estimate
    from instsearch_cli.measure.verbs import (
        coverage,
        evaluate,
        evaluate_run,
        pairs,
        precision,
        reproduce,
        saliency,
    )
    from instsearch_cli.report import (
        copy_hits,
        schema,
        show,
        to_annotations,
        to_csv,
        to_json,
        to_trec,
        to_zip,
        write_page,
        write_sheet,
    )
    from instsearch_cli.serve import serve

    create, open = Index.create, Index.open

_PLACES = {
    "Answer": "engine.answer:Answer",
    "Arrays": "engine.arrays:Arrays",
    "Hit": "engine.answer:Hit",
    "Index": "engine.session:Index",
    "IndexInUse": "errors:IndexInUse",
    "InstsearchError": "errors:InstsearchError",
    "UsageError": "errors:UsageError",
    "View": "engine.answer:View",
    "adapt": "measure.adapting:adapt",
    "classes": "measure.classes:classes",
    "compare": "measure.comparison:compare",
    "copy_hits": "report:copy_hits",
    "coverage": "measure.verbs:coverage",
    "create": "engine.session:Index.create",
    "demo": "demo:make_scenes",
    "estimate": "measure.estimating:estimate",
    "evaluate": "measure.verbs:evaluate",
    "evaluate_run": "measure.verbs:evaluate_run",
    "import_weights": "engine.listing:import_weights",
    "open": "engine.session:Index.open",
    "pairs": "measure.verbs:pairs",
    "plugins": "engine.listing:plugins",
    "precision": "measure.verbs:precision",
    "preset": "engine.listing:preset",
    "presets": "engine.listing:presets",
    "query": "engine.together:query",
    "query_many": "engine.together:query_many",
    "reproduce": "measure.verbs:reproduce",
    "reuse_memory": "engine.memory:reuse_memory",
    "saliency": "measure.verbs:saliency",
    "schema": "report:schema",
    "serve": "serve:serve",
    "show": "report:show",
    "to_annotations": "report:to_annotations",
    "to_csv": "report:to_csv",
    "to_json": "report:to_json",
    "to_trec": "report:to_trec",
    "to_zip": "report:to_zip",
    "train": "engine.teaching:train",
    "weights": "engine.listing:weights",
    "write_page": "report:write_page",
    "write_sheet": "report:write_sheet",
}

__all__ = [
    "Answer",
    "Arrays",
    "Hit",
    "Index",
    "IndexInUse",
    "InstsearchError",
    "UsageError",
    "View",
    "__version__",
    "adapt",
    "classes",
    "compare",
    "copy_hits",
    "coverage",
    "create",
    "demo",
    "estimate",
    "evaluate",
    "evaluate_run",
    "import_weights",
    "open",
    "pairs",
    "plugins",
    "precision",
    "preset",
    "presets",
    "query",
    "query_many",
    "reproduce",
    "reuse_memory",
    "saliency",
    "schema",
    "serve",
    "show",
    "to_annotations",
    "to_csv",
    "to_json",
    "to_trec",
    "to_zip",
    "train",
    "weights",
    "write_page",
    "write_sheet",
]


def __getattr__(name: str) -> Any:
    if name == "__version__":
        return importlib.import_module("instsearch_cli").__version__
    if name not in _PLACES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    module, _, place = _PLACES[name].partition(":")
    return attrgetter(place)(importlib.import_module(f"instsearch_cli.{module}"))


def __dir__() -> list[str]:
    return __all__

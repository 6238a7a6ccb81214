"""What a run will write to disk, judged from a few pictures, said before it starts."""

from __future__ import annotations

import math
import shutil
from typing import TYPE_CHECKING

from instsearch_cli.data import FeatureMap
from instsearch_cli.engine.collection import Collection
from instsearch_cli.engine.stages import CODES, FEATURES, REGIONS, SEARCH, TABLE
from instsearch_cli.errors import InstsearchError
from instsearch_cli.progress import size
from instsearch_cli.storage import numbers

if TYPE_CHECKING:
    from instsearch_cli.engine.assembly import Assembly
    from instsearch_cli.engine.describe import Described
    from instsearch_cli.progress import Quiet
    from instsearch_formats import Index

BYTES_PER_CELL = {"weight-map": 2.0, "word-map": 2.0, "csr": 6.0, "arrays": 8.0}
"""Stored bytes per local feature: f16 weights, u16 words, u16 + f32 sparse codes and their postings."""

BYTES_PER_KEYPOINT = {"word-map": 18.0, "arrays": 14.0}
"""Where it lies, and 64 bits of it, are stored too: compressed with the words, and bare in the postings."""

BYTES_PER_PICTURE = {"regions": 20.0 * 32}

PICTURES = 16  #: that keypoints are counted in; a map is as large in one as in another

COMPRESSED = 0.6
"""Share that f16 features keep after compression (formats/SPEC.md has the measurements)."""


def estimate(index: Index, assembly: Assembly, keep_features: bool) -> tuple[float, str]:
    """Bytes that the missing parts will take, and their make-up in words; (0, "") if nothing is missing."""
    collection = Collection(index, assembly, on_bad=lambda row, reason: None)
    collection.new = collection.span  # a file that is gone is the run's business, if it needs it
    kinds = ([FEATURES] if keep_features else []) + (assembly.kinds if assembly.encoder else [])
    spans = index.images.ranges()
    missing = {kind: sum(len(s) for s in spans if not collection.layer(kind).has(s)) for kind in kinds}
    if not any(missing.values()):
        return 0.0, ""
    collection.hidden = frozenset(index.images.replacing())
    n = min(PICTURES, max(missing.values()))
    some = collection.images[:: max(1, len(collection.images) // n)][:n]
    samples = (inputs.features for inputs in collection.inputs((FEATURES,), some))
    first = next((features for features in samples if features is not None), None)
    if first is None:
        return 0.0, ""
    several, stored, dim = [first], BYTES_PER_CELL, first.values.shape[0]
    if not isinstance(first, FeatureMap):  # pictures differ
        several += [features for features in samples if features is not None]
        stored, dim = BYTES_PER_CELL | BYTES_PER_KEYPOINT, first.values.shape[1]
    cells = sum(math.prod(features.values.shape) for features in several) / len(several) / dim
    each = {encoding: per * cells for encoding, per in stored.items()} | BYTES_PER_PICTURE
    each |= dict.fromkeys(
        ("dense-map", "pyramid", "keypoints"), sum(map(numbers, several)) / len(several) * 2 * COMPRESSED
    )
    each["vectors"] = dim * 4.0 * _codes(collection, int(some[0]))
    if assembly.weighting is not None:
        each["weight-map"] *= assembly.weighting.component.maps
    if CODES in missing:
        missing[SEARCH] = missing[CODES]
        if assembly.encoding(CODES) == "vectors":
            each["arrays"] = each["vectors"]
    total = {kind: n * each.get(assembly.encoding(kind), 0.0) for kind, n in missing.items() if n}
    words = ", ".join(f"{kind} {size(nbytes)}" for kind, nbytes in total.items())
    return sum(total.values()), words


def _codes(collection: Collection, row: int) -> int:
    """How many codes a picture has: as many as one has regions, where each has its own; 1 if these are yet to learn."""
    assembly = collection.assembly
    if assembly.detector is None or not collection.encoder or not collection.encoder.localises:
        return 1
    if _unlearnt(collection.at(row), REGIONS):
        return 1
    found = (inputs.regions for inputs in collection.inputs((REGIONS,), [row]))
    return next((len(regions.boxes) for regions in found if regions is not None), 1)


def _unlearnt(described: Described, kind: str) -> bool:
    """Whether a layer that has to be made for this one is of a component that learns."""
    if kind not in TABLE or not described.lacks(kind):
        return False
    reads = described.assembly.reads(kind)
    return described.assembly.part(kind).fits or any(_unlearnt(described, read) for read in reads)


def check_space(index: Index, assembly: Assembly, keep_features: bool, progress: Quiet) -> None:
    """Say what a run will write; raise InstsearchError if the disk has not got it."""
    need, parts = estimate(index, assembly, keep_features)
    if not need:
        return
    free = shutil.disk_usage(index.path).free
    progress.say(f"to write: about {size(need)} ({parts}); {size(free)} free")
    if need > free:
        raise InstsearchError(
            f"about {size(need)} are needed in {index.path} and {size(free)} are free.\nFree some, or put the index on "
            f"another disk{', or index without --keep-features' if keep_features else ''}."
        )

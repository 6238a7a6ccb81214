"""What a run will write to disk, judged from a few pictures, said before it starts."""

from __future__ import annotations

from typing import TYPE_CHECKING

from instsearch_cli.data import FeatureMap
from instsearch_cli.engine.collection import Collection
from instsearch_cli.progress import size
from instsearch_cli.storage import numbers

if TYPE_CHECKING:
    from instsearch_cli.engine.assembly import Assembly
    from instsearch_formats import Index

BYTES_PER_CELL = {"weights": 2.0, "local": 2.0, "codes": 6.0, "search": 8.0}
"""Stored bytes per local feature: f16 weights, u16 words, u16 + f32 sparse codes and their postings."""

BYTES_PER_KEYPOINT = {"local": 18.0, "search": 14.0}
"""Where it lies, and 64 bits of it, are stored too: compressed with the words, and bare in the postings."""

PICTURES = 16  #: that keypoints are counted in; a map is as large in one as in another

COMPRESSED = 0.6
"""Share that f16 features keep after compression (formats/SPEC.md has the measurements)."""


def estimate(index: Index, assembly: Assembly, keep_features: bool) -> tuple[float, str]:
    """Bytes that the missing parts will take, and their make-up in words; (0, "") if nothing is missing."""
    collection = Collection(index, assembly, on_bad=lambda row, reason: None)
    kinds = (["features"] if keep_features else []) + (assembly.kinds if assembly.encoder else [])
    spans = index.images.ranges()
    missing = {kind: sum(len(s) for s in spans if not collection.layer(kind).has(s)) for kind in kinds}
    if not any(missing.values()):
        return 0.0, ""
    n = min(PICTURES, max(missing.values()))
    some = collection.images[:: max(1, len(collection.images) // n)][:n]
    samples = (inputs.features for inputs in collection.inputs(("features",), some))
    first = next((features for features in samples if features is not None), None)
    if first is None:
        return 0.0, ""
    several, stored, dim = [first], BYTES_PER_CELL, first.values.shape[0]
    if not isinstance(first, FeatureMap):  # pictures differ
        several += [features for features in samples if features is not None]
        stored, dim = BYTES_PER_CELL | BYTES_PER_KEYPOINT, first.values.shape[1]
    cells = sum(features.values.numel() for features in several) / len(several) / dim
    each = {kind: per * cells for kind, per in stored.items()}
    each["features"] = sum(map(numbers, several)) / len(several) * 2 * COMPRESSED
    each["regions"] = 20.0 * 32
    if assembly.weighting is not None:
        each["weights"] *= getattr(assembly.weighting.component, "maps", 1)
    if assembly.encoder is not None and assembly.encoder.component.codes == "vectors":
        each["codes"] = each["search"] = dim * 4.0
    if "codes" in missing:
        missing["search"] = missing["codes"]
    total = {kind: n * each.get(kind, 0.0) for kind, n in missing.items() if n}
    words = ", ".join(f"{kind} {size(nbytes)}" for kind, nbytes in total.items())
    return sum(total.values()), words

"""What a plugin registers: small frozen descriptions, so that registering imports nothing heavy."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

DEFAULTS = {
    "any": "a weighter or an encoder for an extractor without a preset",
    "maps": "an extractor to name to those whose pictures have no keypoints",
    "classes": "an extractor, for what is in a picture",
    "pairs": "a reranker that verifies hits by keypoints, adding the count of those that agree to a hit's score",
    ".json": "a dataset, of files with this ending",
}
"""What components may be the default for, beside searchers for codes."""
NAMES: set[str] = set()
"""What the components of this process are called: a file of weights so called is no network's of a shorter name."""


@dataclass(frozen=True)
class Spec:
    """One component on offer.

    name       kebab-case, unique among its kind
    factory    "package.module:Class", imported on first use
    summary    one line for `instsearch plugins`
    reference  the paper or project it follows
    needs      the layers it reads, among image, features, regions, weights, local, codes
    version    raised when the component's output changes for the same options: old layers stay valid
               for the pipelines that made them, new runs make new layers
    trainer    "package.module:Class" of what `instsearch train` runs for it (training.py); "" for none
    default_for  uses for which it is taken where nobody names another: a searcher's encodings of codes, and DEFAULTS
    """

    kind: ClassVar[str] = ""

    name: str
    factory: str
    summary: str
    reference: str = ""
    needs: tuple[str, ...] = ()
    version: int = 1
    trainer: str = ""
    default_for: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        NAMES.add(self.name)


class ExtractorSpec(Spec):
    """Image -> local features."""

    kind = "extractor"


class WeighterSpec(Spec):
    """Image or features -> weight maps."""

    kind = "weighting"


class DetectorSpec(Spec):
    """Features or weights -> regions."""

    kind = "detector"


class EncoderSpec(Spec):
    """Local features, weights and regions -> codes."""

    kind = "encoder"


class SearcherSpec(Spec):
    """Codes -> hits."""

    kind = "searcher"


class RerankerSpec(Spec):
    """Hits -> better hits."""

    kind = "rerank"


class DatasetSpec(Spec):
    """Images, queries and what is relevant to them."""

    kind = "dataset"


SPECS: dict[str, type[Spec]] = {
    spec.kind: spec
    for spec in (
        ExtractorSpec,
        WeighterSpec,
        DetectorSpec,
        EncoderSpec,
        SearcherSpec,
        RerankerSpec,
        DatasetSpec,
    )
}

"""The eight hooks. They register and do nothing else: no arguments, no heavy import, an iterable of specs."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pluggy

if TYPE_CHECKING:
    from collections.abc import Iterable

    import click

    from instsearch_cli.specs import (
        DatasetSpec,
        DetectorSpec,
        EncoderSpec,
        ExtractorSpec,
        RerankerSpec,
        SearcherSpec,
        WeighterSpec,
    )

hookspec = pluggy.HookspecMarker("instsearch")
hookimpl = pluggy.HookimplMarker("instsearch")


@hookspec
def instsearch_extractors() -> Iterable[ExtractorSpec]:  # type: ignore[empty-body]
    """Networks and keypoint detectors: image -> local features."""


@hookspec
def instsearch_weighters() -> Iterable[WeighterSpec]:  # type: ignore[empty-body]
    """Saliency and class maps: image or features -> non-negative weights."""


@hookspec
def instsearch_detectors() -> Iterable[DetectorSpec]:  # type: ignore[empty-body]
    """Region detectors: features or weights -> boxes."""


@hookspec
def instsearch_encoders() -> Iterable[EncoderSpec]:  # type: ignore[empty-body]
    """Encoders: local features, weights and regions -> codes."""


@hookspec
def instsearch_rerankers() -> Iterable[RerankerSpec]:  # type: ignore[empty-body]
    """Rerankers: hits -> better hits."""


@hookspec
def instsearch_searchers() -> Iterable[SearcherSpec]:  # type: ignore[empty-body]
    """Searchers: query and collection codes -> hits."""


@hookspec
def instsearch_datasets() -> Iterable[DatasetSpec]:  # type: ignore[empty-body]
    """Datasets: images, queries, and what is relevant to each query."""


@hookspec
def instsearch_commands(cli: click.Group) -> None:
    """Add commands to ``cli`` with ``cli.add_command``."""

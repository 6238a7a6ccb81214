"""An index as the Python interface makes it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

import instsearch
from instsearch import Index

STAGES: dict[str, Any] = {"extractor": "cells", "encoder": "centred", "weighting": "flat", "searcher": "scan"}


@pytest.fixture
def index(tiny: tuple[str, ...], photos: Path, tmp_path: Path) -> Index:
    made = instsearch.create(tmp_path / "i")
    made.index(photos, **STAGES)
    return made


def told(answer: instsearch.Answer) -> list[Any]:
    return [(hit.rank, hit.image, hit.path, hit.score, hit.box) for hit in answer]

"""Index format of instsearch: folders of immutable, self-verifying HDF5 parts. SPEC.md is its text."""

from __future__ import annotations

from instsearch_formats.declared import Array
from instsearch_formats.errors import FormatError, LockedError, NewerFormatError
from instsearch_formats.fingerprint import canonical, fingerprint
from instsearch_formats.images import ImageTable
from instsearch_formats.layer import Layer
from instsearch_formats.records import ImageRecord
from instsearch_formats.store import Index, LayerInfo, ModelInfo
from instsearch_formats.verify import Problem
from instsearch_formats.writer import PartWriter

__all__ = [
    "Array",
    "FormatError",
    "ImageRecord",
    "ImageTable",
    "Index",
    "Layer",
    "LayerInfo",
    "LockedError",
    "ModelInfo",
    "NewerFormatError",
    "PartWriter",
    "Problem",
    "canonical",
    "fingerprint",
]

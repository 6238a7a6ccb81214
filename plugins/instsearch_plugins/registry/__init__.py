"""What this package offers. Strings only: nothing heavy is imported until a component is used."""

from __future__ import annotations

from instsearch_plugins.registry.datasets import instsearch_datasets as instsearch_datasets
from instsearch_plugins.registry.detectors import instsearch_detectors as instsearch_detectors
from instsearch_plugins.registry.encoders import instsearch_encoders as instsearch_encoders
from instsearch_plugins.registry.extractors import instsearch_extractors as instsearch_extractors
from instsearch_plugins.registry.rerankers import instsearch_rerankers as instsearch_rerankers
from instsearch_plugins.registry.searchers import instsearch_searchers as instsearch_searchers
from instsearch_plugins.registry.weighters import instsearch_weighters as instsearch_weighters

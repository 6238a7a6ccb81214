"""What weightings share that read a feature map."""

from __future__ import annotations

from typing import TYPE_CHECKING

from instsearch_cli.data import FeatureMap
from instsearch_cli.errors import UsageError

if TYPE_CHECKING:
    from instsearch_cli.data import Features


def feature_map(features: Features | None, weighting: str) -> FeatureMap:
    """The features, if they are a map. Raises UsageError for keypoints."""
    if not isinstance(features, FeatureMap):
        raise UsageError(
            f"the {weighting} weighting needs a feature map, and this extractor gives keypoints: "
            "use another weighting (none, gaussian) or another extractor"
        )
    return features

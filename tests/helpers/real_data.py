"""Where real photographs, weights and protocols lie, for the tests that want some; they are skipped without.

INSTSEARCH_TEST_DATA names the folder; by default it is the one called shared beside the repository.
"""

from __future__ import annotations

import os
from pathlib import Path

DATA = Path(os.environ.get("INSTSEARCH_TEST_DATA") or Path(__file__).parents[3] / "shared")
INSTRE = DATA / "data" / "instre5k"
SCENES = DATA / "data" / "scene-fixations"
PROTOCOLS = DATA / "data" / "protocols"
WEIGHTS = DATA / "weights"
SQUEEZENET = WEIGHTS / "squeezenet1_0-deepcompression.pth"
XFEAT = WEIGHTS / "xfeat.pt"

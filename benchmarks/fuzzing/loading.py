"""Importing the program whole, once, for all the children that are forked."""

from __future__ import annotations

import importlib
import os
import pkgutil
import sys
from pathlib import Path

PLUGINS = ("tiny", "school")  #: of the tests: small components, and a small training


def load() -> None:
    """Import all that a command may import, so that a forked child need not; no thread is started."""
    fakes = Path(__file__).resolve().parents[1] / "tests" / "cli" / "fake_plugins"
    sys.path[:0] = [str(fakes / name) for name in PLUGINS]
    os.environ["INSTSEARCH_OFFLINE"] = "1"
    import cv2
    import torch

    for package in ("instsearch_formats", "instsearch_cli", "instsearch_plugins", "instsearch"):
        module = importlib.import_module(package)
        for found in pkgutil.walk_packages(module.__path__, f"{package}."):
            if not found.name.endswith("__main__"):
                importlib.import_module(found.name)
    for module_name in ("faiss", "h5py", "hdf5plugin", "tiny_plugin", "school_plugin", "scipy.sparse"):
        importlib.import_module(module_name)
    from instsearch_cli.engine import intake, registry

    torch.set_num_threads(1)
    cv2.setNumThreads(1)
    intake.RANGE = 4  # several parts of ten photographs
    registry.load_registry()

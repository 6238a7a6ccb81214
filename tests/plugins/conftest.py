"""The small collections of these tests are whitened as larger ones are, but for those of test_few_images.py."""

from __future__ import annotations

import pytest

from instsearch_plugins.numeric import whitening


@pytest.fixture(autouse=True)
def _enough_images(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(whitening, "ENOUGH", 0)

"""What holds for all tests: a property is tried on thirty examples, however long each takes."""

from __future__ import annotations

from hypothesis import settings

settings.register_profile("suite", parent=settings.default, max_examples=30, deadline=None)
settings.load_profile("suite")

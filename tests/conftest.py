"""What holds for all tests: thirty examples a property, however long each takes; the longest files are begun first."""

from __future__ import annotations

import gc
from collections.abc import Generator

import pytest
from hypothesis import settings

settings.register_profile("suite", parent=settings.default, max_examples=30, deadline=None)
settings.load_profile("suite")

LONG = (
    "test_docs.py",
    "test_fuzz.py",
    "test_kill.py",
    "test_ray.py",
    "test_sync.py",
    "test_demo.py",
    "test_batch.py",
    "test_notebook.py",
    "test_example_plugin.py",
    "test_packaging.py",
    "test_drawing.py",
)


def pytest_configure(config: pytest.Config) -> None:
    """xdist would begin the files of the fewest tests last, and these are the longest: all else waits for one then."""
    config.option.loadscopereorder = False


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    items.sort(key=lambda item: LONG.index(item.path.name) if item.path.name in LONG else len(LONG))


@pytest.hookimpl(wrapper=True)
def pytest_collection() -> Generator[None, object, object]:
    """What is imported and collected stays to the end: the collector of garbage need not walk through it."""
    gc.disable()
    try:
        return (yield)
    finally:
        gc.collect()
        gc.freeze()
        gc.enable()

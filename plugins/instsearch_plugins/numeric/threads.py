"""Threads of torch: small products are done sooner by one, as it waits for no other that may not run just now."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from collections.abc import Iterator


@contextlib.contextmanager
def one_thread() -> Iterator[int]:
    """torch computes in one thread, for the thread that asks, until it leaves; gives the number that it was before."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield threads
    finally:
        torch.set_num_threads(threads)

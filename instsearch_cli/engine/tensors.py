"""What the engine asks of torch, where a pipeline has it: without torch imported nothing here imports it."""

from __future__ import annotations

import contextlib
import functools
import os
import sys
import threading
from typing import TYPE_CHECKING, Any

from threadpoolctl import ThreadpoolController, threadpool_limits

if TYPE_CHECKING:
    from collections.abc import Iterator


@contextlib.contextmanager
def inference() -> Iterator[None]:
    """No gradients, where torch has been imported; for functions as for blocks."""
    torch = sys.modules.get("torch")
    with contextlib.nullcontext() if torch is None else torch.inference_mode():
        yield


_alone = False


def free_threads() -> int:
    """How many threads may compute at once: torch's number where it has been imported, else the cores we may use."""
    torch = sys.modules.get("torch")
    if _alone:
        return 1
    return int(torch.get_num_threads()) if torch is not None else len(os.sched_getaffinity(0))


def compute_in_one_thread() -> None:
    """Let this process compute in one thread from now on: it is one of several on one machine."""
    global _alone
    _alone = True
    threadpool_limits(1)
    if (torch := sys.modules.get("torch")) is not None:
        torch.set_num_threads(1)
    if (cv2 := sys.modules.get("cv2")) is not None:
        cv2.setNumThreads(1)


@functools.lru_cache(maxsize=1)
def _controller(modules: int) -> ThreadpoolController:
    """What limits the threads of libraries, found anew where modules were imported since: it takes a millisecond."""
    return ThreadpoolController()


def _one_thread(api: str) -> Any:
    """One thread for libraries of "blas", in the whole process, or of "openmp", in this thread; undone as a context."""
    return _controller(len(sys.modules)).limit(limits=1, user_api=api)


_several = threading.Lock()
_limits: list[Any] = []


@contextlib.contextmanager
def _libraries_alone() -> Iterator[None]:
    """Linear algebra computes in one thread, in the whole process, until the last one leaves."""
    with _several:
        _limits.append(_limits[0] if _limits else _one_thread("blas"))
    try:
        yield
    finally:
        with _several:
            limits = _limits.pop()
            if not _limits:
                limits.restore_original_limits()


@contextlib.contextmanager
def answering() -> Iterator[None]:
    """No gradients, and one thread for all but torch: what a question multiplies outside of networks is small, and
    threads that wait for the next product take cores from the others; for functions as for blocks.
    """
    with contextlib.ExitStack() as entered:
        entered.enter_context(inference())
        entered.enter_context(_libraries_alone())
        if "torch" not in sys.modules:
            entered.enter_context(_one_thread("openmp"))
        yield


@contextlib.contextmanager
def one_thread_each() -> Iterator[Any]:
    """While several threads work, each of them computes in one: gives what each has to call first.

    The consumer, too: threads that wait for work take a core from the others.
    """
    torch = sys.modules.get("torch")
    threads = torch.get_num_threads() if torch is not None else 0

    def alone() -> None:
        if torch is not None:
            torch.set_num_threads(1)

    with _libraries_alone(), _one_thread("openmp"):
        alone()
        try:
            yield alone
        finally:
            if torch is not None:
                torch.set_num_threads(threads)

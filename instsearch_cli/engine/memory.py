"""How the C library deals with memory, in processes of the program's own."""

from __future__ import annotations

import contextlib
import ctypes

KEPT = 512 << 20  #: bytes of freed memory that the process keeps at most
LARGE = 1 << 30  #: bytes from which on an array has memory of its own, which goes when the array does
LESS = 32 << 20  #: the most that the library took before glibc 2.35
_TRIM, _MMAP, _ARENAS = -1, -3, -8  # glibc's names for these, in malloc.h


def reuse_memory() -> None:
    """Keep some of the memory that is freed, where the C library can (glibc).

    A question's arrays, or a photograph's, are as large as those of the last one, and memory that comes anew from the
    system is cleared page by page: a tenth of a question's time, a sixth of an index's. All threads have it from one
    place: places of their own hold no array of more than 64 MB, as maps of networks are, and keep what others lack.
    """
    with contextlib.suppress(OSError, TypeError, AttributeError):  # another system, another library
        mallopt = ctypes.CDLL(None).mallopt
        mallopt(_ARENAS, 1)
        mallopt(_TRIM, KEPT)
        if not mallopt(_MMAP, LARGE):
            mallopt(_MMAP, LESS)

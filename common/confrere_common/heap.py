"""Memory that is free goes back to the system at once: models come and go in pieces."""

import ctypes
import gc
import sys
from functools import cache

M_MMAP_THRESHOLD = -3  # mallopt(3)

LARGE = 256 << 10
"""Bytes from which a block is given back as soon as it is free."""


@cache
def give_back_what_is_freed() -> None:
    """Have this process hold no more than it uses, from now on; call it once all is imported.

    Large blocks are mapped and unmapped one by one (glibc; elsewhere nothing): glibc would raise
    that threshold as such blocks are freed, and keep a heap for each thread at its highest. What is
    there now is never looked at again by the garbage collector, which makes ``gc.collect`` cheap.
    """
    if sys.platform == "linux":
        mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
        if mallopt is not None:
            mallopt(M_MMAP_THRESHOLD, LARGE)
    gc.collect()
    gc.freeze()

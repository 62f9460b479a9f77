"""Keeps freed memory in the process instead of returning it to the kernel after every step.

A step frees and asks again for hundreds of megabytes; zeroing those pages anew took a third of the time of training on
two cores. Large tensors of changing size still go back, so that memory does not grow by fragmentation.
"""

import ctypes
import sys

M_TRIM_THRESHOLD, M_TOP_PAD, M_MMAP_THRESHOLD = -1, -2, -3


def keep_freed_memory() -> bool:
    """Tell glibc's allocator; returns whether there was one to tell."""
    if not sys.platform.startswith("linux"):
        return False
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is None:
        return False
    return bool(
        mallopt(M_MMAP_THRESHOLD, 32 * 2**20)
        and mallopt(M_TRIM_THRESHOLD, 2**31 - 1)
        and mallopt(M_TOP_PAD, 64 * 2**20)
    )

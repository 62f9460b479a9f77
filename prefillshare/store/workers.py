"""Threads that copy, check and encode pages: numpy, xxhash and numba do so outside of the GIL."""

import os
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor, wait
from itertools import pairwise
from typing import TypeVar

Item = TypeVar("Item")
Result = TypeVar("Result")


class Workers:
    """`num_threads` threads, or the caller's own where that is 1."""

    def __init__(self, num_threads: int) -> None:
        self._num_threads = num_threads
        self._pool: ThreadPoolExecutor | None = None
        self._process = os.getpid()

    def map(self, function: Callable[[Item], Result], items: Sequence[Item]) -> list[Result]:
        """Apply the function to each item, in one piece of work for each thread: pages may be small."""
        num_parts = min(self._num_threads, len(items))
        if num_parts <= 1:
            return [function(item) for item in items]
        ends = [len(items) * part // num_parts for part in range(num_parts + 1)]
        parts = [items[start:end] for start, end in pairwise(ends)]
        # The caller's thread does the last part itself.
        begun = [self._threads().submit(lambda part: [function(item) for item in part], part) for part in parts[:-1]]
        try:
            last = [function(item) for item in parts[-1]]
        finally:
            wait(begun)  # whatever happens: they fill buffers that are the caller's only until it returns
        return [result for future in begun for result in future.result()] + last

    def close(self) -> None:
        """End the threads."""
        if self._pool is not None and self._process == os.getpid():
            self._pool.shutdown()

    def _threads(self) -> ThreadPoolExecutor:
        # Threads do not come along into a child that is forked.
        if self._pool is None or self._process != os.getpid():
            self._process = os.getpid()
            self._pool = ThreadPoolExecutor(self._num_threads - 1, thread_name_prefix="store")
        return self._pool

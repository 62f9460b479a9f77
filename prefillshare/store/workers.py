"""Threads that copy, check and encode pages: numpy, xxhash and numba do so outside of the GIL."""

import os
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from contextlib import suppress
from itertools import pairwise
from typing import Generic, TypeVar

Item = TypeVar("Item")
Result = TypeVar("Result")


class _Part(Generic[Item, Result]):
    """One piece of work, done by whoever comes first."""

    def __init__(self, function: Callable[[Item], Result], items: Sequence[Item]) -> None:
        self._function, self._items = function, items
        self._begun = threading.Lock()
        self.done: Future[list[Result]] = Future()

    def do(self) -> None:
        """Do it, unless somebody has begun it."""
        if not self._begun.acquire(blocking=False):
            return
        try:
            self.done.set_result([self._function(item) for item in self._items])
        except BaseException as error:
            self.done.set_exception(error)


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
        parts = [_Part(function, items[start:end]) for start, end in pairwise(ends)]
        # Where this user has no more threads, the pool raises and keeps the part all the same: begun by a later thread,
        # it would fill buffers that are somebody else's by then. The caller does it, and the later thread finds it so.
        with suppress(RuntimeError):
            for part in parts[:-1]:
                self._threads().submit(part.do)
        for part in reversed(parts):
            part.do()
        # Whatever happened: they fill buffers that are the caller's only until it returns.
        wait([part.done for part in parts])
        return [result for part in parts for result in part.done.result()]

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

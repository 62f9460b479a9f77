"""Waiting for what others do in their own time: until it is so, or with a word on what there was instead."""

import time
from collections.abc import Callable
from typing import TypeVar

T = TypeVar("T")


def wait_until(
    is_so: Callable[[], T], seen: object = "it was to be so", *, within_s: float = 300.0, pause_s: float = 0.05
) -> T:
    """Ask again and again, and return what `is_so` returned when that was true.

    Raises: AssertionError with what was `seen`, or what that returns where it can be called, when the time is over.
    """
    deadline = time.monotonic() + within_s
    while not (found := is_so()):
        assert time.monotonic() < deadline, f"not within {within_s:g} s: {seen() if callable(seen) else seen}"
        time.sleep(pause_s)
    return found

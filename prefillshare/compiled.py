"""Loops in Python that numba compiles, when their module is imported and not when they are first called."""

from collections.abc import Callable
from typing import Any

from numba import njit

_Loops = Callable[..., Any]


def compile_ahead(signature: Any, **options: Any) -> Callable[[_Loops], _Loops]:
    """Compile for these types, and keep the result for the next process where there is a place for it.

    Options: those of ``numba.njit``. The loops run outside of the GIL.
    """

    def compile_function(function: _Loops) -> _Loops:
        try:
            return njit([signature], nogil=True, cache=True, **options)(function)
        except RuntimeError:  # no folder can be written
            return njit([signature], nogil=True, **options)(function)

    return compile_function

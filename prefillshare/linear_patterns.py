"""Patterns that are matched in linear time, whatever text they meet: RE2's."""

from typing import Any

import re2


class PatternError(ValueError):
    """RE2 does not take the pattern; the message is its reason."""


def compile_linear(pattern: str, max_memory: int) -> Any:
    """Return RE2's object of `pattern`, which may take `max_memory` bytes.

    Raises: PatternError.
    """
    options = re2.Options()
    options.max_mem, options.log_errors = max_memory, False
    try:
        return re2.compile(pattern, options=options)
    except re2.error as error:
        reason = error.args[0] if error.args else error
        raise PatternError(reason.decode(errors="replace") if isinstance(reason, bytes) else str(reason)) from None

"""What is told to those who ask for a path that is not there, the same at router and engine."""

import difflib
from collections.abc import Iterable

CALLS = (
    "/v1/chat/completions",
    "/v1/completions",
    "/v1/responses",
    "/v1/messages",
    "/generate",
    "/modules/{module}/generate",
    "/tokenize",
    "/detokenize",
    "/v1/models",
    "/modules",
    "/health",
    "/metrics",
    "/deployment/state",
    "/flush_cache",
)
"""What users call, of the many paths that an engine has."""


def describe_missing(path: str, paths: Iterable[str]) -> str:
    """Return the message for a `path` that is none of `paths`: the nearest one, and all."""
    known = list(dict.fromkeys(paths))
    # Most often the first part is left out, or given twice, since clients put one before the path themselves.
    asked = path.rstrip("/")
    same = [each for each in known if asked and (asked.endswith(each) or each.endswith(asked))]
    near = same or difflib.get_close_matches(path, known, n=1, cutoff=0.8)
    meant = f"did you mean {near[0]}? There are: " if near else "there are: "
    return f"there is no {path} here; {meant}{', '.join(known)}"


def describe_method(path: str, method: str, methods: Iterable[str]) -> str:
    """Return the message for a `path` that does not take `method`."""
    return f"{path} does not take {method}: use {' or '.join(methods)}"

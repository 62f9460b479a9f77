"""What is told to those who ask for a path that is not there, the same at router and engine."""

import difflib
from collections.abc import Iterable, Sequence

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
    near = find_near(path, known)
    meant = "there are: " if near is None else f"did you mean {near}? There are: "
    return f"there is no {path} here; {meant}{', '.join(known)}"


def find_near(path: str, known: Sequence[str]) -> str | None:
    """Return the one of the `known` paths that was most likely meant; None when none is near."""
    # Most often the first part is left out, or given twice, since clients put one before the path themselves.
    asked = path.rstrip("/")
    same = [each for each in known if asked and (asked.endswith(each) or each.endswith(asked))]
    near = same or difflib.get_close_matches(path, known, n=1, cutoff=0.8)
    return near[0] if near else None


def describe_method(path: str, method: str, methods: Iterable[str]) -> str:
    """Return the message for a `path` that does not take `method`."""
    return f"{path} does not take {method}: use {' or '.join(methods)}"

"""Expressions that say who answers them; they work in every program, `@sgl.function` or `@frontend.function`."""

import re
from collections.abc import Sequence
from typing import Any

import sglang as sgl
from sglang.lang.ir import SglExpr

from prefillshare.errors import PrefillShareError
from prefillshare.frontend.turns import answered_by

_SPECIAL = re.compile(r"([\\.^$*+?{}\[\]|()])")


def gen(name: str | None = None, *args: Any, module: str | None = None, **options: Any) -> SglExpr:
    """Return `sgl.gen(name, ...)`, answered by `module` when one is named."""
    expr = sgl.gen(name, *args, **options)
    return expr if module is None else answered_by(module, expr)


def choose(name: str, choices: Sequence[str], *, module: str | None = None, **options: Any) -> SglExpr:
    """Return an expression in which the decode module itself chooses: it can generate one of `choices`, nothing else.

    `sgl.select` compares log-probabilities of the prompt, and those are the prefill module's whoever has the turn.
    """
    if not choices:
        raise PrefillShareError(f"choices of {name!r} is empty: give at least one text")
    regex = "|".join(_SPECIAL.sub(r"\\\1", choice) for choice in choices)
    longest = max(len(choice.encode()) for choice in choices)
    return gen(name, module=module, **{"regex": f"({regex})", "temperature": 0, "max_tokens": longest + 1, **options})

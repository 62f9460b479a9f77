"""Who answers next, told to the thread that executes a program's expressions.

A program submits expressions, and an executor's thread works through them later, in order. So the module travels as an
expression of its own: a mark before and a mark after the expressions that it is for. A mark is worth no text. SGLang
fetches the value of an `SglVariable` when its turn comes, in the thread that then calls the backend; that moment is
what the marks need, in every kind of executor: threaded, unthreaded, streaming, forked.
"""

from contextvars import ContextVar
from typing import Any

from sglang.lang.ir import SglExpr, SglExprList, SglVariable

_stack: ContextVar[tuple[str, ...]] = ContextVar("prefillshare_modules", default=())


class Turn(SglVariable):
    """From here on `module` answers; None ends the latest such turn."""

    def __init__(self, module: str | None) -> None:
        super().__init__("prefillshare_turn", source=None)
        self.module = module
        self.source_stream_executor = self

    def get_var(self, name: str) -> str:
        """What SGLang asks an executor for; the empty text."""
        stack = _stack.get()
        _stack.set(stack[:-1] if self.module is None else (*stack, self.module))
        return ""

    def __repr__(self) -> str:
        return f"Turn({self.module!r})"


def answered_by(module: str, expr: SglExpr | str) -> SglExprList:
    """Return `expr` with `module` answering what is asked in it, unless something in it says otherwise."""
    return SglExprList([Turn(module), expr, Turn(None)])


def current() -> str | None:
    """Return the module whose turn it is in this thread, None when none was named."""
    stack = _stack.get()
    return stack[-1] if stack else None


def forget() -> None:
    """End all turns: a call failed, and the marks behind it will not be reached."""
    _stack.set(())


def modules_in(expr: Any) -> set[str]:
    """Return the modules that `expr` names."""
    if isinstance(expr, Turn):
        return {expr.module} if expr.module is not None else set()
    if isinstance(expr, SglExprList):
        return set().union(*(modules_in(part) for part in expr.expr_list))
    return set()

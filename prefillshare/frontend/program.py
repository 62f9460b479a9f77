"""Programs whose state can say who answers: `with s.module("tool"): s += sgl.gen("call")`."""

import functools
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from sglang.lang.interpreter import ProgramState, ProgramStateGroup
from sglang.lang.ir import SglExpr, SglFunction

from prefillshare.errors import PrefillShareError
from prefillshare.frontend.endpoint import Endpoint
from prefillshare.frontend.turns import answered_by, modules_in


class State(ProgramState):
    """The state of a program, with modules; shares the executor of the state that it is made from."""

    def __init__(self, state: ProgramState, module: str | None = None) -> None:
        super().__init__(state.stream_executor)
        self._owner = state  # ends the executor when nobody needs it any more
        self._module = module

    def __del__(self) -> None:
        """Overrides SGLang's, which ends the executor."""

    @contextmanager
    def module(self, name: str) -> Iterator["State"]:
        """Let decode module `name` answer what is asked inside of the block, in forks made there, too.

        Raises: UnknownModuleError with the list of modules.
        """
        self._endpoint().check(name)
        before, self._module = self._module, name
        try:
            yield self
        finally:
            self._module = before

    def fork(self, size: int = 1, position_ids_offset: list[int] | None = None) -> ProgramStateGroup:
        """SGLang's fork; the copies begin with this state's module."""
        group = super().fork(size, position_ids_offset)
        return ProgramStateGroup([State(state, self._module) for state in group.states], self)

    def system(self, expr: SglExpr | str | None = None) -> Any:
        """A system turn."""
        return super().system(self._answered(expr))

    def user(self, expr: SglExpr | str | None = None) -> Any:
        """A user's turn."""
        return super().user(self._answered(expr))

    def assistant(self, expr: SglExpr | str | None = None) -> Any:
        """An assistant's turn."""
        return super().assistant(self._answered(expr))

    def __iadd__(self, other: Any) -> "State":
        super().__iadd__(self._answered(other))
        return self

    def _answered(self, expr: Any) -> Any:
        for name in modules_in(expr):
            self._endpoint().check(name)
        return expr if self._module is None or expr is None else answered_by(self._module, expr)

    def _endpoint(self) -> Endpoint:
        backend = self.stream_executor.backend
        if not isinstance(backend, Endpoint):
            raise PrefillShareError(
                f"the backend is a {type(backend).__name__}, which knows no modules: use prefillshare.frontend.Endpoint"
            )
        return backend


class ModuleFunction(SglFunction):
    """A program whose function gets a `State`."""

    def __init__(
        self,
        func: Callable[..., Any],
        num_api_spec_tokens: int | None = None,
        bind_arguments: dict[str, Any] | None = None,
    ) -> None:
        super().__init__(func, num_api_spec_tokens, bind_arguments)
        self._plain_func = func
        self.func = _with_modules(func)

    def bind(self, **arguments: Any) -> "ModuleFunction":
        """SGLang's bind."""
        assert all(name in self.arg_names for name in arguments)
        return ModuleFunction(self._plain_func, bind_arguments={**self.bind_arguments, **arguments})


def function(func: Callable[..., Any]) -> ModuleFunction:
    """Make a program of a function, as `sgl.function` does, whose state has `module`."""
    return ModuleFunction(func)


def _with_modules(func: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(func)
    def run(s: Any, *args: Any, **kwargs: Any) -> Any:
        # SGLang traces a program for the prefix that all of a batch share; its tracer ends at `s.module`, as at a fork.
        return func(State(s) if type(s) is ProgramState else s, *args, **kwargs)

    return run

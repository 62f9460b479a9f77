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

_POLL_S = 0.1


class ProgramError(PrefillShareError):
    """An earlier call of a program failed, so it cannot go on."""


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
        # SGLang prefills the text before a fork only if its thread has written any by now.
        self.sync()
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

    def get_var(self, name: str) -> Any:
        """The value of a variable, once it is there.

        Raises: ProgramError when it never will be: a call failed, and SGLang's own state would wait for ever.
        """
        executor = self.stream_executor
        done = executor.variable_event.get(name)
        while done is not None and not done.wait(_POLL_S) and executor.error_ is None:
            pass
        if name not in executor.variables:
            self._raise_if_failed()
        return executor.variables[name]

    def __iadd__(self, other: Any) -> "State":
        super().__iadd__(self._answered(other))
        return self

    def _raise_if_failed(self) -> None:
        if (error := self.stream_executor.error_) is not None:
            raise ProgramError(f"a call of this program failed: {error}") from error

    def _answered(self, expr: Any) -> Any:
        self._raise_if_failed()
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

    def run(self, *args: Any, **options: Any) -> State:
        """SGLang's run."""
        return State(super().run(*args, **options))

    def run_batch(self, *args: Any, **options: Any) -> Any:
        """SGLang's run_batch: a list of states, or a generator of them with `generator_style`."""
        states = super().run_batch(*args, **options)
        return [State(state) for state in states] if isinstance(states, list) else (State(state) for state in states)


def function(func: Callable[..., Any]) -> ModuleFunction:
    """Make a program of a function, as `sgl.function` does, whose state has `module`."""
    return ModuleFunction(func)


def _with_modules(func: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(func)
    def run(s: Any, *args: Any, **kwargs: Any) -> Any:
        # SGLang traces a program for the prefix that all of a batch share; its tracer ends at `s.module`, as at a fork.
        return func(State(s) if type(s) is ProgramState else s, *args, **kwargs)

    return run

"""Which tests need a real engine: `make test-fast` leaves those out, and a test that is not marked cannot start one.

A fixture that starts an engine says so with `starts_engine`, and every test that asks for it is marked; a test that
starts one by itself is marked `engine` by hand.
"""

import sys
from collections.abc import Callable
from typing import Any, TypeVar

import pytest

from prefillshare.serving.arguments import ENGINE_PROGRAM

ENGINE = "engine"
_STARTS = "starts_engine"
_PROGRAMS = (ENGINE_PROGRAM[-1], "sglang_patches.forkserver")

AnyFunction = TypeVar("AnyFunction", bound=Callable[..., Any])


def starts_engine(function: AnyFunction) -> AnyFunction:
    """Say of a fixture that it starts an engine; below `@pytest.fixture`."""
    setattr(function, _STARTS, True)
    return function


def mark_engine_tests(items: list[pytest.Item]) -> None:
    """Mark the tests that ask for a fixture that starts an engine, directly or through another one."""
    for item in items:
        known = item._fixtureinfo.name2fixturedefs.values() if isinstance(item, pytest.Function) else ()
        if any(hasattr(definition.func, _STARTS) for definitions in known for definition in definitions):
            item.add_marker(ENGINE)


class Guard:
    """Refuses the start of an engine by a test that is not marked: it would make `make test-fast` slow."""

    def __init__(self) -> None:
        self.item: pytest.Item | None = None
        sys.addaudithook(self._hear)

    def _hear(self, event: str, arguments: tuple[Any, ...]) -> None:
        if event == "subprocess.Popen" and self._is_unmarked() and any(name in arguments[1] for name in _PROGRAMS):
            self._refuse()

    def _is_unmarked(self) -> bool:
        return self.item is not None and self.item.get_closest_marker(ENGINE) is None

    def _refuse(self) -> None:
        pytest.fail(
            "this test starts an engine and is not marked: give its fixture @starts_engine (tests/support/marks.py), "
            "or the test @pytest.mark.engine"
        )


guard = Guard()

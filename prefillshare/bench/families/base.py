"""The contract of families."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from prefillshare.config.schema import DecodeModule, Deployment, Engine, PrefillModule

Listener = Callable[[str], None]


@dataclass(frozen=True, slots=True, kw_only=True)
class Family:
    """Models that every system serves in its own way."""

    name: str
    """As on the command line."""
    deployment: Callable[[int, Listener], Deployment]
    """From the number of modules to a colocated deployment of that many adapters; tells what it makes on the way."""
    max_modules: int | None = None
    """Most modules that it has; None for any number."""


def module_name(number: int) -> str:
    """Name of a decode module of the families that have any number of them."""
    return f"agent-{number}"


def make_deployment(name: str, base: Path, adapters: list[Path], engine: Engine) -> Deployment:
    """A colocated deployment of adapters called agent-0, agent-1, ..."""
    modules = tuple(
        DecodeModule(name=module_name(number), kind="lora", path=path) for number, path in enumerate(adapters)
    )
    return Deployment(name=name, prefill=PrefillModule(name=f"{name}-base", path=base), decode=modules, engine=engine)

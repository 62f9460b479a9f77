"""The contract of systems, and what all that start engines have in common."""

import contextlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Literal, Protocol

from prefillshare.config.schema import Deployment
from prefillshare.config.store import Store
from prefillshare.errors import BenchError


@dataclass(frozen=True, slots=True, kw_only=True)
class PrefillLeg:
    """The other half of a call to a disaggregated pair without a router."""

    url: str
    """Address of the prefill worker."""
    bootstrap_port: int
    """Port at which the decode worker finds it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Target:
    """Where and how one decode module is asked."""

    url: str
    """Address of the server."""
    dialect: Literal["sglang", "openai"] = "sglang"
    """`sglang`: /generate; `openai`: /v1/completions."""
    model: str | None = None
    """What goes into "model"; None where the server has one model."""
    adapter: str | None = None
    """Adapter that SGLang is to use; None where the server chooses."""
    prefill: PrefillLeg | None = None
    """The prefill worker that is asked as well."""
    api_key: str | None = None
    """Key that the server wants."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Engine:
    """An engine that can be asked how full it is and told to empty its cache."""

    url: str
    """Its address."""
    api_key: str | None = None
    """Key that it wants."""
    prefills: bool = True
    """Whether prompts are computed there."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Running:
    """A system that answers."""

    targets: Mapping[str, Target]
    """How to ask each decode module."""
    engines: Sequence[Engine] = ()
    """Its engines; empty where they are not ours to ask."""
    router: Engine | None = None
    """Its router, which has metrics as an engine has: jobs of which no engine has heard yet."""
    commands: Sequence[str] = ()
    """What was started, for the report."""
    kv_token_bytes: int | None = None
    """Bytes of one token's KV; None where it is not known."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Setup:
    """What a system is to serve, the same for all."""

    deployment: Deployment
    """Base, adapters and engine settings; each system serves them in its own way."""
    kv_tokens: int | None
    """KV budget of the whole system in tokens, shared equally by its engines; None leaves it to the engine."""
    store_memory: str | None = None
    """Size of the store's memory, for the systems that have one; None serves them without."""
    log_dir: Path
    """Directory for the engines' logs."""
    longest_call: int = field(default=1)
    """Tokens of the longest prompt with its answer."""

    def with_store(self, deployment: Deployment) -> Deployment:
        """The deployment with the store that was asked for."""
        if self.store_memory is None:
            return deployment
        return replace(deployment, store=Store(memory=self.store_memory))

    def for_engines(self, num_engines: int) -> Deployment:
        """The deployment with each engine's part of the budget.

        Raises: BenchError when the longest call does not fit that part, or several engines have no budget to share.
        """
        if self.kv_tokens is None:
            if num_engines > 1:
                raise BenchError(
                    f"a system of {num_engines} engines needs a KV budget to share with them: give --kv-tokens"
                )
            return self.deployment
        page = self.deployment.engine.page_size or 1
        part = self.kv_tokens // num_engines // page * page
        if part <= self.longest_call:
            raise BenchError(
                f"a KV budget of {self.kv_tokens} tokens leaves {part} to each of {num_engines} engines and the "
                f"longest call has {self.longest_call}: set --kv-tokens to more than "
                f"{(self.longest_call + page) * num_engines}"
            )
        return replace(self.deployment, engine=replace(self.deployment.engine, max_total_tokens=part))


class System(Protocol):
    """One way to serve the modules."""

    name: str
    """As on the command line."""
    shares: bool | None
    """Whether it prefills once for all modules; None where nobody knows. Says which ideal its hits are held against."""

    def start(self, setup: Setup) -> contextlib.AbstractContextManager[Running]:
        """Serve while the context is open.

        Raises: PrefillShareError when it cannot be started.
        """


def with_full_weights(deployment: Deployment) -> Deployment:
    """The same modules with full weights, on workers of their own."""
    modules = tuple(replace(module, kind="full", merge=True) for module in deployment.decode)
    return replace(deployment, topology="disaggregated", decode=modules)

"""The systems under load: both topologies as `prefillshare launch` serves them, and SGLang as released."""

import contextlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

from prefillshare.bench.systems.base import Running, Setup, with_full_weights
from prefillshare.bench.systems.shared import Shared, describe_cluster
from prefillshare.bench.systems.vanilla_lora import VanillaLora
from prefillshare.modules.deployment import resolve
from prefillshare.serving.machine.ports import free_port
from prefillshare.serving.options import LaunchOptions
from prefillshare.serving.run.cluster import launch_cluster


@dataclass(frozen=True, slots=True, kw_only=True)
class Served:
    """A system that answers."""

    url: str
    """Its address."""
    models: tuple[str, ...]
    """What clients put into "model" for each decode module."""
    api_key: str | None
    """Key that it wants."""


Start = Callable[[Setup], contextlib.AbstractContextManager[Served]]


@contextlib.contextmanager
def _colocated(setup: Setup) -> Iterator[Served]:
    with Shared().start(setup) as running:
        yield _describe(running, str)


@contextlib.contextmanager
def _disaggregated(setup: Setup) -> Iterator[Served]:
    """A prefill worker, a decode worker with full weights per module, and the router, on the same KV budget."""
    deployment = resolve(with_full_weights(setup.for_engines(1 + len(setup.deployment.decode))))
    cluster = launch_cluster(deployment, LaunchOptions(port=free_port(), log_path=setup.log_dir / "disaggregated.log"))
    try:
        yield _describe(describe_cluster(cluster), str)
    finally:
        cluster.stop(drain_s=0)


@contextlib.contextmanager
def _sglang(setup: Setup) -> Iterator[Served]:
    with VanillaLora().start(setup) as running:
        # SGLang's own way to name an adapter in "model"; what stands before the colon may be anything.
        yield _describe(running, "base:{}".format)


def _describe(running: Running, name: Callable[[str], str]) -> Served:
    target = next(iter(running.targets.values()))
    return Served(url=target.url, models=tuple(map(name, running.targets)), api_key=target.api_key)


SYSTEMS: Mapping[str, tuple[str, Start]] = {
    "colocated": ("PrefillShare, one engine", _colocated),
    "disaggregated": ("PrefillShare, prefill worker, decode workers, router", _disaggregated),
    "sglang": ("SGLang as released, one engine with the same adapters", _sglang),
}
"""Name on the command line: title, and what starts it."""

"""PrefillShare: `shared` is one engine with all modules, `shared-pd` prefill workers, decode workers and a router.

`shared-lazy` is `shared` without answers that are computed ahead, `shared-open` without sessions that wait for memory,
`shared-wait` with them where there is a store as well: what each brings, and costs, is what is between them.
"""

import contextlib
from collections.abc import Iterator
from dataclasses import replace

from prefillshare.bench.systems.base import Engine, Running, Setup, Target, with_full_weights
from prefillshare.config.schema import MEMORY_WAIT_S, Deployment
from prefillshare.modules.deployment import resolve
from prefillshare.serving.machine.ports import free_port
from prefillshare.serving.options import LaunchOptions
from prefillshare.serving.plan.memory import kv_token_bytes
from prefillshare.serving.plan.processes import plan_engine
from prefillshare.serving.run.cluster import RunningCluster, launch_cluster
from prefillshare.serving.run.engine import launch_engine


class Shared:
    """Colocated, as `prefillshare launch` serves it."""

    name = "shared"
    shares: bool | None = True

    @contextlib.contextmanager
    def start(self, setup: Setup) -> Iterator[Running]:
        """See `System`."""
        deployment = resolve(self.choose(setup.with_store(setup.for_engines(1))))
        options = LaunchOptions(port=free_port(), log_path=setup.log_dir / f"{self.name}.log")
        running = launch_engine(deployment, options)
        try:
            yield Running(
                targets={
                    module.spec.name: Target(url=running.url, adapter=module.spec.name) for module in deployment.modules
                },
                engines=(Engine(url=running.url),),
                commands=(plan_engine(deployment, options).command.as_shell(),),
                kv_token_bytes=kv_token_bytes(deployment),
            )
        finally:
            running.stop(drain_s=0)

    def choose(self, deployment: Deployment) -> Deployment:
        """The deployment as this system serves it."""
        return deployment


class SharedLazy(Shared):
    """Colocated, and every prompt is computed when it comes."""

    name = "shared-lazy"

    def choose(self, deployment: Deployment) -> Deployment:
        """Without answers that are computed ahead."""
        return replace(deployment, prefill=replace(deployment.prefill, eager_answers=False))


class SharedOpen(Shared):
    """Colocated, and every call is taken when it comes, whatever KV that evicts."""

    name = "shared-open"

    def choose(self, deployment: Deployment) -> Deployment:
        """Without sessions that wait for memory."""
        return replace(deployment, engine=replace(deployment.engine, memory_wait_s=0.0))


class SharedWait(Shared):
    """Colocated, and new sessions wait for memory, whatever a store could hold for them."""

    name = "shared-wait"

    def choose(self, deployment: Deployment) -> Deployment:
        """With sessions that wait, which a store switches off."""
        return replace(deployment, engine=replace(deployment.engine, memory_wait_s=MEMORY_WAIT_S))


class SharedPd:
    """Disaggregated, as `prefillshare launch` serves it, with the engines of `vanilla-pd`.

    A decode worker per module and as many prefill workers, which all modules share: what the paper compares on equal
    hardware.
    """

    name = "shared-pd"
    shares: bool | None = True

    @contextlib.contextmanager
    def start(self, setup: Setup) -> Iterator[Running]:
        """See `System`."""
        deployment = resolve(setup.with_store(make_disaggregated(setup)))
        options = LaunchOptions(port=free_port(), log_path=setup.log_dir / f"{self.name}.log")
        cluster = launch_cluster(deployment, options)
        try:
            yield describe_cluster(cluster)
        finally:
            cluster.stop(drain_s=0)


def make_disaggregated(setup: Setup) -> Deployment:
    """As many prefill workers as decode modules, and each engine's part of the budget.

    Raises: BenchError when the longest call does not fit that part.
    """
    num_modules = len(setup.deployment.decode)
    deployment = with_full_weights(setup.for_engines(2 * num_modules))
    return replace(deployment, prefill=replace(deployment.prefill, workers=num_modules))


def describe_cluster(cluster: RunningCluster) -> Running:
    """How to ask and to watch a disaggregated deployment that answers."""
    return Running(
        targets={
            module.spec.name: Target(url=cluster.url, model=module.spec.name, api_key=cluster.api_key)
            for module in cluster.deployment.modules
        },
        engines=tuple(
            Engine(url=planned.place.url, api_key=planned.command.api_key, prefills=planned.worker.role == "prefill")
            for planned in cluster.workers
        ),
        router=Engine(url=cluster.url, api_key=cluster.api_key, prefills=False),
        commands=tuple(worker.command.as_shell() for worker in cluster.workers),
        kv_token_bytes=kv_token_bytes(cluster.deployment),
    )

"""`vanilla-pd`: a prefill and a decode worker of SGLang as released per module, the baseline of the paper.

Both workers of a pair hold the module's full weights. The driver sends both legs of a call itself, so no router is in
the way. SGLang's own disaggregation runs on CPU as it is, given the platform plugin (KV in host memory for NIXL) and
`--disable-overlap-schedule`; the engine plugin is not loaded.
"""

import contextlib
from collections.abc import Iterator, Mapping

from prefillshare.bench.systems.base import (
    Engine,
    PrefillLeg,
    Running,
    Setup,
    Target,
    with_full_weights,
)
from prefillshare.modules.deployment import ResolvedDeployment, ResolvedModule, resolve
from prefillshare.serving.plan.arguments import worker_command
from prefillshare.serving.plan.memory import kv_token_bytes, worker_memory
from prefillshare.serving.plan.placement import GpuPlace, place_deployment
from prefillshare.serving.plan.processes import PlannedWorker, place_worker
from prefillshare.serving.plan.workers import Worker, decode_worker
from prefillshare.serving.run.plain import plain_command, running_plain_engines


class VanillaPd:
    """One pair per module."""

    name = "vanilla-pd"
    shares: bool | None = False

    @contextlib.contextmanager
    def start(self, setup: Setup) -> Iterator[Running]:
        """See `System`."""
        deployment = resolve(with_full_weights(setup.for_engines(2 * len(setup.deployment.decode))))
        pairs = plan_pairs(deployment)
        workers = [planned for pair in pairs.values() for planned in pair]
        commands = {planned.worker.name: (planned.command, planned.place.url) for planned in workers}
        with running_plain_engines(commands, setup.log_dir):
            yield Running(
                targets=_targets(pairs),
                engines=tuple(
                    Engine(url=planned.place.url, prefills=planned.worker.role == "prefill") for planned in workers
                ),
                commands=tuple(planned.command.as_shell() for planned in workers),
                kv_token_bytes=kv_token_bytes(deployment),
            )


def plan_pairs(deployment: ResolvedDeployment) -> dict[str, tuple[PlannedWorker, PlannedWorker]]:
    """Return a prefill and a decode worker on free ports for each module.

    Raises: ConfigError when the GPUs do not hold them.
    """
    pairs = [(module.spec.name, _pair(deployment, module)) for module in deployment.modules]
    sizes = [worker_memory(deployment, worker) for _, pair in pairs for worker in pair]
    gpus = iter(place_deployment(deployment, sizes))
    return {
        name: (_plan(deployment, prefill, next(gpus)), _plan(deployment, decode, next(gpus)))
        for name, (prefill, decode) in pairs
    }


def _pair(deployment: ResolvedDeployment, module: ResolvedModule) -> tuple[Worker, Worker]:
    decode = decode_worker(deployment, module, f"decode-{module.spec.name}")
    # The prefill worker of a plain pair holds the module's own weights, too.
    prefill = Worker(
        name=f"prefill-{module.spec.name}",
        role="prefill",
        model=deployment.config.prefill.name,
        checkpoint=module.path,
    )
    return prefill, decode


def _plan(deployment: ResolvedDeployment, worker: Worker, gpu: GpuPlace | None) -> PlannedWorker:
    place = place_worker(worker, gpu)
    command = plain_command(worker_command(deployment, worker, place))
    return PlannedWorker(worker=worker, place=place, command=command)


def _targets(pairs: Mapping[str, tuple[PlannedWorker, PlannedWorker]]) -> dict[str, Target]:
    targets = {}
    for name, (prefill, decode) in pairs.items():
        assert prefill.place.bootstrap_port is not None
        leg = PrefillLeg(url=prefill.place.url, bootstrap_port=prefill.place.bootstrap_port)
        targets[name] = Target(url=decode.place.url, prefill=leg)
    return targets

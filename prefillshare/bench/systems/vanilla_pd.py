"""`vanilla-pd`: a prefill and a decode worker of SGLang as released per module, the baseline of the paper.

Both workers of a pair hold the module's full weights. The driver sends both legs of a call itself, so no router is in
the way. SGLang's own disaggregation runs on CPU as it is, given the platform plugin (KV in host memory for NIXL) and
`--disable-overlap-schedule`; the engine plugin is not loaded.
"""

import contextlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace

from prefillshare.bench.systems.base import (
    Engine,
    PrefillLeg,
    Running,
    Setup,
    Target,
    with_full_weights,
)
from prefillshare.modules.deployment import ResolvedDeployment, ResolvedModule, resolve
from prefillshare.serving.arguments import EngineCommand, WorkerPlace, worker_command
from prefillshare.serving.memory import kv_token_bytes, worker_memory
from prefillshare.serving.options import DEFAULT_HOST
from prefillshare.serving.placement import GpuPlace, place_deployment
from prefillshare.serving.plain import plain_command, running_plain_engines
from prefillshare.serving.ports import free_port


@dataclass(frozen=True, slots=True, kw_only=True)
class PlainWorker:
    """One worker of a pair."""

    place: WorkerPlace
    """Where it listens."""
    command: EngineCommand
    """What runs."""

    @property
    def url(self) -> str:
        """Its address."""
        return f"http://{self.place.host}:{self.place.port}"


class VanillaPd:
    """One pair per module."""

    name = "vanilla-pd"
    shares: bool | None = False

    @contextlib.contextmanager
    def start(self, setup: Setup) -> Iterator[Running]:
        """See `System`."""
        deployment = resolve(with_full_weights(setup.for_engines(2 * len(setup.deployment.decode))))
        pairs = plan_pairs(deployment)
        workers = {
            f"{role}-{name}": worker
            for name, pair in pairs.items()
            for role, worker in zip(("prefill", "decode"), pair, strict=True)
        }
        commands = {name: (worker.command, worker.url) for name, worker in workers.items()}
        with running_plain_engines(commands, setup.log_dir):
            yield Running(
                targets=_targets(pairs),
                engines=tuple(
                    Engine(url=worker.url, prefills=worker.place.module is None) for worker in workers.values()
                ),
                commands=tuple(worker.command.as_shell() for worker in workers.values()),
                kv_token_bytes=kv_token_bytes(deployment),
            )


def plan_pairs(deployment: ResolvedDeployment) -> dict[str, tuple[PlainWorker, PlainWorker]]:
    """A prefill and a decode worker on free ports for each module.

    Raises: ConfigError when the GPUs do not hold them.
    """
    sizes = [
        worker_memory(deployment, f"{role}-{module.spec.name}", module.path)
        for module in deployment.modules
        for role in ("prefill", "decode")
    ]
    gpus = iter(place_deployment(deployment, sizes))
    pairs = {}
    for module in deployment.modules:
        # The prefill worker of a plain pair holds the module's own weights, too.
        alone = replace(deployment, prefill_path=module.path)
        pairs[module.spec.name] = (_worker(alone, None, next(gpus)), _worker(alone, module, next(gpus)))
    return pairs


def _worker(deployment: ResolvedDeployment, module: ResolvedModule | None, gpu: GpuPlace | None) -> PlainWorker:
    place = WorkerPlace(
        module=module,
        host=DEFAULT_HOST,
        port=free_port(),
        nccl_port=free_port(),
        bootstrap_port=free_port() if module is None else None,
        gpu=gpu,
    )
    return PlainWorker(place=place, command=plain_command(worker_command(deployment, place)))


def _targets(pairs: Mapping[str, tuple[PlainWorker, PlainWorker]]) -> dict[str, Target]:
    targets = {}
    for name, (prefill, decode) in pairs.items():
        assert prefill.place.bootstrap_port is not None
        leg = PrefillLeg(url=prefill.url, bootstrap_port=prefill.place.bootstrap_port)
        targets[name] = Target(url=decode.url, prefill=leg)
    return targets

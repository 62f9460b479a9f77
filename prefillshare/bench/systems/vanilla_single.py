"""`vanilla-single`: one SGLang server as released per module, each with the module's full weights."""

import contextlib
from collections.abc import Iterator

from prefillshare.bench.systems.base import (
    Engine,
    Running,
    Setup,
    Target,
    with_full_weights,
)
from prefillshare.modules.deployment import ResolvedModule, resolve
from prefillshare.serving.machine.ports import free_port
from prefillshare.serving.options import DEFAULT_HOST
from prefillshare.serving.plan.arguments import alone_command
from prefillshare.serving.plan.memory import kv_token_bytes, worker_memory
from prefillshare.serving.plan.place import Place
from prefillshare.serving.plan.placement import place_deployment
from prefillshare.serving.plan.workers import Worker
from prefillshare.serving.run.plain import plain_command, running_plain_engines


class VanillaSingle:
    """Nothing is shared but the machine."""

    name = "vanilla-single"
    shares: bool | None = False

    @contextlib.contextmanager
    def start(self, setup: Setup) -> Iterator[Running]:
        """See `System`."""
        deployment = resolve(with_full_weights(setup.for_engines(len(setup.deployment.decode))))
        commands = {}
        workers = [_worker(module) for module in deployment.modules]
        sizes = [worker_memory(deployment, worker) for worker in workers]
        for worker, gpu in zip(workers, place_deployment(deployment, sizes), strict=True):
            place = Place(host=DEFAULT_HOST, port=free_port(), nccl_port=free_port(), gpu=gpu)
            commands[worker.name] = (plain_command(alone_command(deployment, worker, place)), place.url)
        with running_plain_engines(commands, setup.log_dir):
            yield Running(
                targets={name: Target(url=url) for name, (_, url) in commands.items()},
                engines=tuple(Engine(url=url) for _, url in commands.values()),
                commands=tuple(command.as_shell() for command, _ in commands.values()),
                kv_token_bytes=kv_token_bytes(deployment),
            )


def _worker(module: ResolvedModule) -> Worker:
    return Worker(name=module.spec.name, role="engine", model=module.spec.name, checkpoint=module.path)

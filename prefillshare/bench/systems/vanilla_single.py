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
from prefillshare.modules.deployment import resolve
from prefillshare.serving.arguments import module_command
from prefillshare.serving.memory import kv_token_bytes, worker_memory
from prefillshare.serving.placement import place_deployment
from prefillshare.serving.plain import plain_command, running_plain_engines
from prefillshare.serving.ports import free_port


class VanillaSingle:
    """Nothing is shared but the machine."""

    name = "vanilla-single"
    shares: bool | None = False

    @contextlib.contextmanager
    def start(self, setup: Setup) -> Iterator[Running]:
        """See `System`."""
        deployment = resolve(with_full_weights(setup.for_engines(len(setup.deployment.decode))))
        commands = {}
        sizes = [worker_memory(deployment, module.spec.name, module.path) for module in deployment.modules]
        for module, gpu in zip(deployment.modules, place_deployment(deployment, sizes), strict=True):
            port = free_port()
            command = module_command(deployment, module, port=port, nccl_port=free_port(), gpu=gpu)
            commands[module.spec.name] = (plain_command(command), f"http://127.0.0.1:{port}")
        with running_plain_engines(commands, setup.log_dir):
            yield Running(
                targets={name: Target(url=url) for name, (_, url) in commands.items()},
                engines=tuple(Engine(url=url) for _, url in commands.values()),
                commands=tuple(command.as_shell() for command, _ in commands.values()),
                kv_token_bytes=kv_token_bytes(deployment),
            )

"""`vanilla-lora`: one SGLang engine as released, with all modules as adapters."""

import contextlib
from collections.abc import Iterator

from prefillshare.bench.systems.base import Engine, Running, Setup, Target
from prefillshare.modules.deployment import resolve
from prefillshare.serving.machine.ports import free_port
from prefillshare.serving.options import LaunchOptions
from prefillshare.serving.plan.memory import kv_token_bytes
from prefillshare.serving.plan.processes import plan_engine
from prefillshare.serving.run.plain import plain_command, running_plain_engines


class VanillaLora:
    """Each adapter prefills for itself."""

    name = "vanilla-lora"
    shares: bool | None = False

    @contextlib.contextmanager
    def start(self, setup: Setup) -> Iterator[Running]:
        """See `System`."""
        deployment, port = resolve(setup.for_engines(1)), free_port()
        command, url = (
            plain_command(plan_engine(deployment, LaunchOptions(port=port)).command),
            f"http://127.0.0.1:{port}",
        )
        with running_plain_engines({self.name: (command, url)}, setup.log_dir):
            yield Running(
                targets={module.spec.name: Target(url=url, adapter=module.spec.name) for module in deployment.modules},
                engines=(Engine(url=url),),
                commands=(command.as_shell(),),
                kv_token_bytes=kv_token_bytes(deployment),
            )

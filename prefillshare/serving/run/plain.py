"""SGLang as released, with the settings of a deployment: what PrefillShare is measured against.

The same commands as `prefillshare.serving.plan.arguments` makes, without the shared radix cache and without the engine
plugin. The platform plugin stays: without it, SGLang does not run on machines without an accelerator.
"""

import contextlib
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path

from prefillshare.contract import CPU_PLUGIN
from prefillshare.serving.options import START_TIMEOUT_S
from prefillshare.serving.plan.command import ProcessCommand
from prefillshare.serving.plan.store import without_store
from prefillshare.serving.run.forks import ForkServer
from prefillshare.serving.run.process import start_engine
from prefillshare.serving.run.readiness import start_fork_server, wait_until_listening

_BACKEND_FLAG = "--radix-cache-backend"


def plain_command(command: ProcessCommand) -> ProcessCommand:
    """Return `command` for an engine that nobody patched."""
    argv = list(command.argv)
    flag = argv.index(_BACKEND_FLAG)
    del argv[flag : flag + 2]  # the first one; further arguments of the caller may ask for another
    argv = without_store(argv)
    return replace(command, argv=tuple(argv), environment={**command.environment, "SGLANG_PLUGINS": CPU_PLUGIN})


@contextlib.contextmanager
def running_plain_engines(
    commands: Mapping[str, tuple[ProcessCommand, str]], log_dir: Path, borrowed: ForkServer | None = None
) -> Iterator[None]:
    """Engines by name, each with its command and its address, while the context is open; logs go into `log_dir`.

    They are forked from `borrowed`, a fork server for their environment, or from one of their own.
    Raises: LaunchError with the reason of the first that does not start.
    """
    with contextlib.ExitStack() as stack:
        processes, first = [], next(iter(commands.values()))[0]
        forks = borrowed
        if borrowed is None and (forks := start_fork_server(first, log_dir / "forks.log", START_TIMEOUT_S)) is not None:
            stack.callback(forks.close)
        for name, (command, url) in commands.items():
            process = start_engine(command, log_dir / f"{name}.log", forks)
            stack.callback(process.kill)
            processes.append((process, url))
        wait_until_listening(processes, None, START_TIMEOUT_S, lambda stage: None)
        yield

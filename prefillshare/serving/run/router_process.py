"""The router's settings file and command line; the router itself is `prefillshare.routing`."""

import dataclasses
import json
import os
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from prefillshare.modules.deployment import ResolvedDeployment
from prefillshare.modules.fingerprint import geometry
from prefillshare.serving.machine.logs import new_log_path
from prefillshare.serving.options import LaunchOptions
from prefillshare.serving.plan.arguments import EngineCommand


class RoutedWorker(Protocol):
    """What the router must know about a worker."""

    @property
    def name(self) -> str: ...

    @property
    def role(self) -> str: ...

    @property
    def module(self) -> str | None: ...

    @property
    def url(self) -> str: ...

    @property
    def bootstrap_port(self) -> int | None: ...

    @property
    def kv_events(self) -> str | None: ...


@dataclass(frozen=True, slots=True, kw_only=True)
class RouterFile:
    """A settings file that only this user can read: it holds keys."""

    path: Path
    """The file; nobody else may read its directory."""
    log_path: Path
    """File for what the router says."""

    @classmethod
    def create(
        cls,
        directory: Path,
        deployment: ResolvedDeployment,
        options: LaunchOptions,
        workers: Sequence[RoutedWorker],
        worker_key: str,
    ) -> "RouterFile":
        """Write the settings of the router of `deployment` into `directory`."""
        path = directory / "router.json"
        settings = {
            "host": options.host,
            "port": options.port,
            "api_key": options.api_key,
            "admin_key": options.admin_key,
            "worker_api_key": worker_key,
            "vocab_size": geometry(deployment.prefill_path)["vocab_size"],
            "deployment": deployment.config.name,
            "otlp_endpoint": deployment.config.otlp_endpoint,
            "base_model": deployment.config.prefill.name,
            "workers": [_describe(worker) for worker in workers],
            "router": dataclasses.asdict(deployment.config.router),
        }
        with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT, 0o600), "w", encoding="utf-8") as stream:
            json.dump(settings, stream)
        log_path = options.log_path or new_log_path(f"{deployment.config.name}.router")
        return cls(path=path, log_path=log_path)


def router_command(file: RouterFile) -> EngineCommand:
    """Return the command that runs the router."""
    argv = (sys.executable, "-m", "prefillshare.routing", str(file.path))
    return EngineCommand(argv=argv, environment={}, api_key=None)


def _describe(worker: RoutedWorker) -> dict[str, Any]:
    return {
        "id": worker.name,
        "role": worker.role,
        "module": worker.module,
        "url": worker.url,
        "bootstrap_host": None if worker.bootstrap_port is None else "127.0.0.1",
        "bootstrap_port": worker.bootstrap_port,
        "kv_events": worker.kv_events,
    }

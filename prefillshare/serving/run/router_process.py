"""The router's settings file and command line; the router itself is `prefillshare.routing`."""

import dataclasses
import json
import os
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from prefillshare.modules.deployment import ResolvedDeployment
from prefillshare.modules.fingerprint import geometry
from prefillshare.naming.alias import as_table
from prefillshare.naming.changes import Changes, changes_as_dict
from prefillshare.serving.machine.logs import new_log_path
from prefillshare.serving.options import LaunchOptions
from prefillshare.serving.plan.command import ProcessCommand
from prefillshare.serving.plan.processes import PlannedWorker
from prefillshare.serving.plan.tenants import check_tenants

_CHANGES_FOLDER = "changes"
_ALIASES_FILE = "aliases.json"


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
        workers: Sequence[PlannedWorker],
        worker_key: str | None,
    ) -> "RouterFile":
        """Write the settings of the router of `deployment` into `directory`.

        Raises: ConfigError where its tenants cannot be served.
        """
        check_tenants(deployment.config, options.api_key)
        tenants = deployment.config.tenants
        path = directory / "router.json"
        settings = {
            "host": options.host,
            "port": options.port,
            "api_key": options.api_key,
            "admin_key": options.admin_key,
            "address": options.address,
            "peers": options.peers,
            "worker_api_key": worker_key,
            "vocab_size": geometry(deployment.prefill_path)["vocab_size"],
            "deployment": deployment.config.name,
            "otlp_endpoint": deployment.config.otlp_endpoint,
            "base_model": deployment.config.prefill.name,
            "fingerprint": deployment.fingerprint,
            "modules": [module.name for module in deployment.config.decode],
            # Without workers of its own, it has no launcher that could start any.
            "aliases_file": str(path.parent / _ALIASES_FILE),
            "changes_dir": str(_make_changes_folder(path)) if workers else None,
            "aliases": as_table(deployment.config.aliases),
            "eager_answers": deployment.config.prefill.eager_answers,
            "workers": [describe_worker(worker) for worker in workers],
            "router": dataclasses.asdict(deployment.config.router),
            "roles": dataclasses.asdict(deployment.config.roles),
            "tenants_file": None if tenants is None else str(tenants.file),
            "responses": dataclasses.asdict(deployment.config.responses),
        }
        _write_private(path, settings)
        log_path = options.log_path or new_log_path(f"{deployment.config.name}.router")
        return cls(path=path, log_path=log_path)

    @property
    def aliases_file(self) -> Path:
        """Where the router keeps what has changed about its aliases."""
        return self.path.parent / _ALIASES_FILE

    def tell_changes(self, changes: Changes) -> None:
        """Let a router that is to be started know what was changed about its aliases before."""
        if changes:
            self.aliases_file.write_text(json.dumps(changes_as_dict(changes)), encoding="utf-8")

    @property
    def changes_folder(self) -> Path:
        """Where the router puts what is to change about modules."""
        return self.path.parent / _CHANGES_FOLDER

    def name_workers(self, workers: Sequence[PlannedWorker], modules: Sequence[str] | None = None) -> None:
        """Let a router that is started again know these workers, and no others; and these modules, if they changed."""
        settings = json.loads(self.path.read_text(encoding="utf-8"))
        settings["workers"] = [describe_worker(worker) for worker in workers]
        if modules is not None:
            settings["modules"] = list(modules)
        partial = self.path.with_suffix(".partial")
        _write_private(partial, settings)
        partial.replace(self.path)  # a router that starts in this moment reads the file before or the one after


def router_command(file: RouterFile) -> ProcessCommand:
    """Return the command that runs the router."""
    argv = (sys.executable, "-m", "prefillshare.routing", str(file.path))
    return ProcessCommand(argv=argv, environment={})


def _make_changes_folder(path: Path) -> Path:
    folder = path.parent / _CHANGES_FOLDER
    folder.mkdir(mode=0o700, exist_ok=True)
    return folder


def _write_private(path: Path, settings: Mapping[str, object]) -> None:
    with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w", encoding="utf-8") as stream:
        json.dump(settings, stream)


def describe_worker(planned: PlannedWorker) -> dict[str, str | int | bool | None]:
    """Return a worker as `prefillshare.routing` reads it."""
    worker, place = planned.worker, planned.place
    return {
        "id": worker.name,
        "role": worker.role,
        "module": worker.module,
        "url": place.url,
        "bootstrap_host": None if place.bootstrap_port is None else place.host,
        "bootstrap_port": place.bootstrap_port,
        "kv_events": place.kv_events_address,
        "has_store": planned.store is not None and worker.role != "decode",
        "can_move": planned.can_move,
    }

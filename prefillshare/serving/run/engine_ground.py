"""The engine of a colocated deployment in each of its lives: what it is started with, first and after a death.

Modules and aliases that changed while it served are in a file that it leaves behind (`served_file`). The next engine is
planned with them, as if the deployment file named them, and with the room for adapters that the first one had: nobody
finds a name missing, and what could be added before can be added still.
"""

import shutil
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from prefillshare.config.schema import DecodeModule
from prefillshare.contract import MODULES_FILE_VARIABLE
from prefillshare.errors import ConfigError, LaunchError, ModuleError, PrefillShareError
from prefillshare.modules.added import read_added
from prefillshare.modules.deployment import ResolvedDeployment, ResolvedModule, base_of, resolve_module
from prefillshare.modules.heads import read_again
from prefillshare.naming.alias import AnyAlias, as_table, read_aliases
from prefillshare.naming.rules import ByRules
from prefillshare.places import new_private_folder
from prefillshare.serving.machine.ports import all_or_none, release
from prefillshare.serving.options import LaunchOptions, Listener
from prefillshare.serving.plan.command import ProcessCommand
from prefillshare.serving.plan.processes import PlannedWorker, plan_engine
from prefillshare.serving.plan.workers import with_room_of
from prefillshare.serving.run.served_file import Served, read_served

_MODULES_FILE = "modules.json"


class EngineGround:
    """What one engine is started with, and what it serves now."""

    def __init__(self, deployment: ResolvedDeployment, options: LaunchOptions, say: Listener) -> None:
        """Plan the first life; `say` hears, later, of modules that cannot come back.

        Effects: makes `directory`, which the caller removes in the end.
        Raises: ConfigError when the machine lacks what the deployment asks for.
        """
        self.deployment = deployment
        """What the engine that runs was started with."""
        self.planned: PlannedWorker = plan_engine(deployment, options)
        """The engine that was started last."""
        self.directory = new_private_folder()
        """Files of this launch that outlive an engine."""
        self._options = options
        self._say = say

    @property
    def model_names(self) -> tuple[str, ...]:
        """Every name that clients may put into "model" now."""
        served, config = read_served(self._modules_file), self.deployment.config
        return config.model_names if served is None else (*served.paths, *served.aliases, config.prefill.name)

    def command(self) -> ProcessCommand:
        """Return what starts the engine as it was planned last."""
        command = self.planned.command
        variables = {**command.environment, MODULES_FILE_VARIABLE: str(self._modules_file)}
        return replace(command, environment=variables)

    def command_again(self) -> ProcessCommand:
        """Return what starts the engine anew, with the modules and aliases that it had.

        Raises: LaunchError when they cannot be served any more.
        """
        try:
            # What was launched may have gone from the disk, too.
            deployment = self._with_served(read_served(self._modules_file) or _as_launched(self.deployment))
            with all_or_none():
                gone, self.planned = self.planned, plan_engine(deployment, self._options)
        except PrefillShareError as error:
            raise LaunchError(f"what it served cannot be planned again: {error}") from None
        release(gone.place.held_ports)
        self.deployment = deployment
        self._modules_file.unlink(missing_ok=True)
        return self.command()

    def end(self) -> None:
        """Remove its files."""
        shutil.rmtree(self.directory, ignore_errors=True)

    @property
    def _modules_file(self) -> Path:
        return self.directory / _MODULES_FILE

    def _with_served(self, served: Served) -> ResolvedDeployment:
        deployment = with_room_of(self.deployment)
        modules = tuple(filter(None, (self._find_module(name, path) for name, path in served.paths.items())))
        if not modules:
            raise LaunchError("none of its modules can be served")
        aliases = self._find_aliases(served.aliases, {module.spec.name for module in modules})
        specs = tuple(module.spec for module in modules)
        config = replace(deployment.config, decode=specs, aliases=aliases)
        return replace(deployment, config=config, modules=modules)

    def _find_module(self, name: str, path: str) -> ResolvedModule | None:
        """Return a module as its files are now; None, and say so, when they cannot be served any more."""
        try:
            module, _ = resolve_module(self._spec_of(name, path), base_of(self.deployment))
        except (ConfigError, ModuleError) as error:
            self._say(f"module {name!r} cannot come back: {error}")
            return None
        return module

    def _spec_of(self, name: str, path: str) -> DecodeModule:
        # A module of the file has more to it than a path, such as share = false.
        known = (module for module in self.deployment.modules if (module.spec.name, str(module.path)) == (name, path))
        found = next(known, None)
        return read_added(name, {"path": path, "kind": "lora"}) if found is None else found.spec

    def _find_aliases(self, table: Mapping[str, Any], modules: set[str]) -> dict[str, AnyAlias]:
        kept: dict[str, AnyAlias] = {}
        found = read_again(read_aliases(table), self.deployment.fingerprint, modules, self._leave_out_alias)
        # Rules may mean an alias by weight, so these are looked at first.
        for alias in sorted(found.values(), key=lambda alias: isinstance(alias, ByRules)):
            if modules | kept.keys() >= {*alias.targets}:
                kept[alias.name] = alias
            else:
                self._leave_out_alias(alias.name, "it means a module that is not there")
        return kept

    def _leave_out_alias(self, name: str, reason: str) -> None:
        self._say(f"alias {name!r} cannot come back: {reason}")


def _as_launched(deployment: ResolvedDeployment) -> Served:
    paths = {module.spec.name: str(module.path) for module in deployment.modules}
    return Served(paths=paths, aliases=as_table(deployment.config.aliases))

"""Adds, reloads and removes decode modules of a running engine.

Everything is checked here, in the HTTP process, before the scheduler hears of it; one change at a time. A module is an
adapter in the scheduler, known by id, and a name in the registry of this process: a reload loads the new adapter beside
the old one, gives it the name in one step, and unloads the old one when the last call that has its id has ended. KV in
the cache is the prefill module's, so no change of a module touches it.
"""

from __future__ import annotations

import asyncio
import itertools
import json
import logging
import os
import time
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from prefillshare.contract import MODULES_FILE_VARIABLE
from prefillshare.errors import ConfigError, ModuleError, PrefillShareError
from prefillshare.modules.added import check_room, describe_added, read_added
from prefillshare.modules.fingerprint import prefill_fingerprint
from prefillshare.modules.heads import has_classifier, read_classifier
from prefillshare.naming.alias import AnyAlias, as_table, check_aliases, find_user, read_alias
from sglang_patches.checks.adapters import VERSION_MARK, find_room, resolve_late
from sglang_patches.disaggregation.role import is_decode_worker
from sglang_patches.http.model_names import module_names, set_aliases
from sglang_patches.prefill.unshared import unshared_modules

if TYPE_CHECKING:
    from sglang.srt.lora.lora_registry import LoRARef

    from prefillshare.modules.deployment import ResolvedModule
    from sglang_patches.engine.lora_registry import LoRARegistry
    from sglang_patches.engine.tokenizer_manager import TokenizerManager


log = logging.getLogger(__name__)


class ChangeRefusedError(PrefillShareError):
    """A change that cannot be made; nothing has changed."""

    def __init__(self, message: str, status: int = 400) -> None:
        super().__init__(message)
        self.status = status


class ModuleChanges:
    """The changes of one engine; lives in its HTTP process."""

    def __init__(self, manager: TokenizerManager) -> None:
        self._manager = manager
        self._lock = asyncio.Lock()
        self._numbers = itertools.count(1)
        self._leaving: set[asyncio.Task[None]] = set()

    async def add(self, name: str, table: object) -> dict[str, Any]:
        """Load the module that `table` describes under a name that is free.

        Raises: ChangeRefusedError.
        """
        async with self._lock:
            if taken := module_names(self._manager).is_taken(name):
                fix = "reload it, or choose another name" if taken == "a decode module" else "choose another name"
                raise ChangeRefusedError(f"name {name!r} is that of {taken}: {fix}", 409)
            started_at = time.monotonic()
            module, warnings = await self._check(name, table)
            await self._registry.register(await self._load(module))
            self._note_modules(name, f"it was added, from {module.path}")
            return describe_added(module, warnings, time.monotonic() - started_at)

    async def reload(self, name: str) -> dict[str, Any]:
        """Load a module again from its directory; calls that run end on the version that they began with.

        Raises: ChangeRefusedError.
        """
        async with self._lock:
            old, started_at = self._find(name), time.monotonic()
            module, warnings = await self._check(name, {"path": str(old.lora_path), "kind": "lora"})
            if is_decode_worker():
                # It has slots for two versions, and nothing keeps calls of a third one out of a batch.
                await asyncio.gather(*self._leaving)
            adapter = await self._load(module)
            self._let_go(await self._registry.replace(adapter), name)
            self._note_modules(name, f"it was read anew, from {module.path}")
            return describe_added(module, warnings, time.monotonic() - started_at)

    async def remove(self, name: str) -> dict[str, Any]:
        """Take no further calls for a module; it goes when those that run have ended.

        Raises: ChangeRefusedError.
        """
        async with self._lock:
            self._find(name)
            if len(self._registry.get_all_adapters()) == 1:
                raise ChangeRefusedError(
                    f"module {name!r} is the only one of this deployment: add another one first", 409
                )
            if alias := find_user(module_names(self._manager).aliases, name):
                raise ChangeRefusedError(
                    f"alias {alias!r} means module {name!r}: give the alias another meaning, or remove it first", 409
                )
            # Before the name goes: a call that finds no adapter of it would load the one remembered here.
            self._manager.lora_ref_cache.pop(name, None)
            self._let_go(await self._registry.unregister(name), name)
            self._note_modules(name, "it was removed, and ends with its calls")
            return {"name": name}

    async def set_alias(self, name: str, meaning: object) -> dict[str, Any]:
        """Let a name mean a module, or several by weight, by rules or by a classifier.

        Raises: ChangeRefusedError.
        """
        async with self._lock:
            names = module_names(self._manager)
            try:
                alias = await self._read_alias(name, meaning)
                aliases = {**names.aliases, name: alias}
                check_aliases(aliases, names.base, names.modules)
            except (ConfigError, ModuleError) as error:
                raise ChangeRefusedError(str(error)) from None
            return self._keep(aliases)

    async def _read_alias(self, name: str, meaning: object) -> AnyAlias:
        """Read what a name is to mean, and the classifier that it names, if it does."""
        alias = read_alias(name, meaning)
        if not has_classifier(alias):
            return alias
        fingerprint = await asyncio.to_thread(prefill_fingerprint, Path(self._manager.server_args.model_path))
        return await asyncio.to_thread(read_classifier, alias, fingerprint)

    def _keep(self, aliases: Mapping[str, AnyAlias]) -> dict[str, Any]:
        set_aliases(self._manager, aliases)
        self._note_modules(", ".join(aliases) or "none", "these are the aliases now")
        return {"aliases": as_table(aliases)}

    async def drop_alias(self, name: str) -> dict[str, Any]:
        """Forget an alias.

        Raises: ChangeRefusedError.
        """
        async with self._lock:
            aliases = dict(module_names(self._manager).aliases)
            if aliases.pop(name, None) is None:
                raise ChangeRefusedError(f"there is no alias {name!r}; there are: {', '.join(aliases) or 'none'}", 404)
            if user := find_user(aliases, name):
                raise ChangeRefusedError(f"alias {user!r} means {name!r}: change its rules first", 409)
            return self._keep(aliases)

    @property
    def _registry(self) -> LoRARegistry:
        registry: LoRARegistry = self._manager.lora_registry
        return registry

    def _find(self, name: str) -> LoRARef:
        self._refuse_without_adapters()
        adapter = self._registry.get_all_adapters().get(name)
        if adapter is None:
            known = module_names(self._manager).describe()
            raise ChangeRefusedError(f"module {name!r} does not exist; this server has: {known}", 404)
        return adapter

    def _refuse_without_adapters(self) -> None:
        if not self._manager.server_args.enable_lora:
            raise ChangeRefusedError(
                f"this engine holds the weights of {self._manager.served_model_name!r} and no adapters: ask the router "
                "of its deployment"
            )

    async def _check(self, name: str, table: object) -> tuple[ResolvedModule, list[str]]:
        self._refuse_without_adapters()
        try:
            if name in unshared_modules():
                raise ModuleError(
                    f"module {name!r} has share = false in the deployment file, and the cache holds KV of the adapter "
                    "that it was launched with: launch the deployment anew, or add the adapter under another name"
                )
            spec = read_added(name, table)
            if not spec.share:
                raise ModuleError(
                    f"share = false for {name!r}: this engine keeps KV apart only of modules that it was launched "
                    "with, so write it into the deployment file and launch it anew"
                )
            if spec.kind == "full":
                raise ModuleError(
                    f'module {name!r} has kind = "full", which topology = "colocated" cannot serve: give its LoRA '
                    'adapter, or serve the deployment with topology = "disaggregated"'
                )
            module, warnings = await asyncio.to_thread(resolve_late, spec, self._manager.server_args)
            check_room(module, find_room(self._manager.server_args))
            # Its bytes are in the page cache then: the scheduler, which everybody waits for, reads no disk.
            await asyncio.to_thread(_read_through, module.path)
        except (ConfigError, ModuleError) as error:
            raise ChangeRefusedError(str(error)) from None
        except OSError as error:  # files that go, or change, while they are read
            what = f"{error.filename or 'a file of it'}: {error.strerror or error}"
            raise ChangeRefusedError(
                f"module {name!r} cannot be read ({what}): ask again when its files rest"
            ) from None
        return module, warnings

    async def _load(self, module: ResolvedModule) -> LoRARef:
        """Let the scheduler load an adapter; nobody can ask for it yet."""
        from sglang.srt.lora.lora_registry import LoRARef
        from sglang.srt.managers.io_struct import LoadLoRAAdapterReqInput

        name, path = module.spec.name, str(module.path)
        adapter = LoRARef(lora_name=name, lora_path=path, pinned=False)
        # The old version of that name may still be there.
        label = f"{name}{VERSION_MARK}{next(self._numbers)}"
        asked = LoadLoRAAdapterReqInput(lora_name=label, lora_path=path, lora_id=adapter.lora_id)
        told = await self._tell(asked)
        if not told.success:
            raise ChangeRefusedError(told.error_message or f"module {name!r} could not be loaded: read the log")
        self._manager.lora_ref_cache[name] = adapter
        return adapter

    def _let_go(self, lora_id: str, name: str) -> None:
        task = asyncio.create_task(self._unload(lora_id, name))
        self._leaving.add(task)
        task.add_done_callback(self._leaving.discard)

    async def _unload(self, lora_id: str, name: str) -> None:
        from sglang.srt.managers.io_struct import UnloadLoRAAdapterReqInput

        await self._registry.wait_for_unload(lora_id)
        await self._tell(UnloadLoRAAdapterReqInput(lora_name=name, lora_id=lora_id))

    async def _tell(self, asked: Any) -> Any:
        from sglang.srt.managers.tokenizer_control_mixin import _merge_lora_update_results

        self._manager.auto_create_handle_loop()
        async with self._manager.lora_update_lock:
            return _merge_lora_update_results(await self._manager.update_lora_adapter_communicator(asked))

    def _note_modules(self, subject: str, message: str) -> None:
        """Tell people, and the launcher, for `prefillshare ps`."""
        self._manager.observer.events.tell("module", subject, message)
        file = os.getenv(MODULES_FILE_VARIABLE)
        if file:
            names, adapters = module_names(self._manager), self._registry.get_all_adapters()
            paths = {name: str(adapters[name].lora_path) for name in names.modules}
            try:
                _write(Path(file), {"modules": paths, "aliases": as_table(names.aliases)})
            except OSError as error:  # the change is made; the launcher knows those of before
                log.warning("%s cannot be written (%s): `prefillshare ps` shows the modules of before", file, error)


def _read_through(path: Path) -> None:
    for file in path.glob("*.safetensors"):
        with file.open("rb", buffering=0) as stream:
            while stream.read(1 << 20):
                pass


def _write(file: Path, content: Mapping[str, object]) -> None:
    partial = file.with_suffix(".partial")
    partial.write_text(json.dumps(content), encoding="utf-8")
    partial.replace(file)


RELIED_ON = {
    "managers.tokenizer_control_mixin:TokenizerControlMixin._unload_lora_adapter_locked": (
        "4d921cecf004faf9",
        "what unloading an adapter consists of",
    ),
    "managers.tokenizer_control_mixin:TokenizerControlMixin.load_lora_adapter": (
        "056532175533ab93",
        "what loading an adapter consists of",
    ),
    "managers.tokenizer_control_mixin:_merge_lora_update_results": (
        "f3765eb65b2e4d2e",
        "what the ranks say of an adapter",
    ),
}

"""Adapters by name, of which one can take another's place between two calls.

Target: ``sglang.srt.lora.lora_registry.LoRARegistry``
Why: upstream looks an adapter's id up under its lock and counts the call after it, so an adapter that is taken away in
    between has no call and is unloaded under it. And it can only drop a name and give it again, with a moment between
    in which calls for it fail.
How: look-up and count are one step, and ``replace`` gives a name to another adapter in one. Calls that run go on by the
    id that they have.
Remove when: upstream counts under the lock and can replace an adapter.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from sglang.srt.lora import lora_registry as upstream

from sglang_patches.declarations import binds, overrides

if TYPE_CHECKING:
    from sglang.srt.lora.lora_registry import LoRARef

Names = str | list[str | None]


@binds("lora.lora_registry:LoRARegistry", at=("managers.tokenizer_manager",))
class LoRARegistry(upstream.LoRARegistry):
    """Counts a call for the adapter that it found."""

    @overrides("efdebf9affea36a7", "an adapter could be unloaded between a call's look-up and its count")
    async def acquire(self, lora_name: Names) -> Names:
        names = [lora_name] if isinstance(lora_name, str) else lora_name
        async with self._registry_lock.writer_lock:
            if missing := [name for name in names if name is not None and name not in self._registry]:
                raise ValueError(f"{', '.join(missing)}: no such decode module is loaded any more")
            ids = [None if name is None else self._touch(name) for name in names]
            for lora_id in ids:
                if lora_id is not None:
                    await self._counters[lora_id].increment(notify_all=False)
        return ids if isinstance(lora_name, list) else str(ids[0])

    def _touch(self, name: str) -> str:
        self._registry.move_to_end(name)
        return str(self._registry[name].lora_id)

    async def replace(self, adapter: LoRARef) -> str:
        """Give the name of ``adapter`` to it; return the id of the one that had it, to wait for and unload."""
        async with self._registry_lock.writer_lock:
            old = self._registry.pop(adapter.lora_name)
            self._register_adapter(adapter)
        return str(old.lora_id)


RELIED_ON = {
    "lora.lora_registry:LoRARegistry._register_adapter": ("6ee0aa33648528bf", "what a registered adapter consists of"),
    "lora.lora_registry:LoRARegistry.release": ("995ae4c604e625d3", "counts by id, which a replaced adapter keeps"),
    "lora.lora_registry:LoRARegistry.wait_for_unload": ("746c5e1d120103fa", "waits by id for the calls that have it"),
}

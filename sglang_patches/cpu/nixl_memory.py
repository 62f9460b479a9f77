"""NIXL moves KV between host memories, without spinning a core while it waits.

Target: ``sglang.srt.disaggregation.nixl.conn.NixlKVManager.__init__``
Why: it registers the KV pool as device memory; and UCX's progress thread, with the
    workers of the prefill side, keeps a whole core busy on an idle server.
How: before the original, every KV buffer is declared host memory; while it runs, the
    agent that it makes is one without progress thread and workers. Transfers then
    advance when either side looks at them, which both do on every scheduler step.
    A method patch: ``engine/nixl`` binds the class, and this mends it without shared prefill, too.
Upstream: sglang/srt/disaggregation/nixl/conn.py:391 at 0.5.17.
Remove when: upstream asks the platform what memory its KV pool is.
"""

from __future__ import annotations

import contextlib
import importlib
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

from sglang_patches.declarations import wraps_upstream

if TYPE_CHECKING:
    from sglang.srt.disaggregation.base.conn import KVArgs
    from sglang.srt.disaggregation.nixl.conn import NixlKVManager


@wraps_upstream(
    "disaggregation.nixl.conn:NixlKVManager.__init__",
    "36651bf696700175",
    "KV in host memory would be registered as device memory, and each scheduler spin",
)
def wrap_manager_init(original: Callable[..., None]) -> Callable[..., None]:
    def __init__(self: NixlKVManager, args: KVArgs, *rest: Any, **options: Any) -> None:
        args.kv_data_mem_kinds = ["DRAM"] * len(args.kv_data_ptrs)
        # Upstream imports the agent's class inside of its constructor, and takes no other.
        with _quiet_agents():
            original(self, args, *rest, **options)

    return __init__


@contextlib.contextmanager
def _quiet_agents() -> Iterator[None]:
    nixl: Any = importlib.import_module("nixl._api")
    loud: Any = nixl.nixl_agent

    class QuietAgent(loud):
        """An agent without threads of its own."""

        def __init__(self, name: str, config: Any) -> None:
            config.enable_pthread = False
            config.num_threads = 0
            # Without threads of its own the agent does not lock either, and the manager's
            # transfer threads share it: some transfers never came to an end.
            config.sync_mode = nixl.nixl_thread_sync_t.NIXL_THREAD_SYNC_STRICT
            super().__init__(name, config)

        def create_backend(self, backend: str, parameters: dict[str, str]) -> None:
            super().create_backend(backend, {k: v for k, v in parameters.items() if k != "num_threads"})

    nixl.nixl_agent = QuietAgent
    try:
        yield
    finally:
        nixl.nixl_agent = loud

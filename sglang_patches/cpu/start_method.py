"""Workers of a forked engine are forked too, so the engine is imported once for all of them.

Target: ``sglang.srt.entrypoints.engine._set_envs_and_config``
Why: it asks for ``spawn``, and each process of each engine would import SGLang again:
    many seconds of CPU and hundreds of MB that forked processes share.
How: after the original, ``fork`` is chosen in engines that come from the fork server
    (:mod:`sglang_patches.forkserver`), which runs only where no accelerator is: a CUDA
    context does not survive a fork.
Upstream: sglang/srt/entrypoints/engine.py:1670 at 0.5.17.
Remove when: SGLang can preload itself for its workers.
"""

from __future__ import annotations

import multiprocessing
import os
from collections.abc import Callable
from typing import TYPE_CHECKING

from prefillshare.contract import FORKED_VARIABLE
from sglang_patches.declarations import wraps_upstream

if TYPE_CHECKING:
    from sglang.srt.server_args import ServerArgs


@wraps_upstream(
    "entrypoints.engine:_set_envs_and_config",
    "5a826b1c796f84c8",
    "each process of a forked engine would import it again",
)
def wrap_set_envs_and_config(original: Callable[[ServerArgs], None]) -> Callable[[ServerArgs], None]:
    def _set_envs_and_config(server_args: ServerArgs) -> None:
        original(server_args)
        if os.getenv(FORKED_VARIABLE) == "1":
            multiprocessing.set_start_method("fork", force=True)

    return _set_envs_and_config

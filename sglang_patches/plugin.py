"""Entry points that SGLang calls in each of its processes.

SGLang logs a plugin's exception and starts without it; an engine that is only half
patched would serve wrong tokens. So a failed check ends the process here, with one
message (I8). The patches are imported inside of that check: what they import may be
missing, too.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable

from prefillshare.contract import ENGINE_PLUGIN
from prefillshare.errors import PrefillShareError
from sglang_patches.cpu.platform import PLATFORM_CLASS, activate

EXIT_CODE = 78
"""EX_CONFIG of sysexits: the installation, not the request, is wrong."""


def _or_exit(action: Callable[[], None]) -> None:
    try:
        action()
    except Exception as error:  # the process boundary: nothing may go on from here
        detail = str(error) if isinstance(error, PrefillShareError) else repr(error)
        print(f"sglang_patches: {detail}", file=sys.stderr, flush=True)
        # SystemExit would pass SGLang's `except Exception`, but not its threads.
        os._exit(EXIT_CODE)


def load_engine_plugin() -> None:
    """Patch this process for shared prefill, if ``SGLANG_PLUGINS`` names it.

    Installed beside SGLang, it must not change a plain ``sglang serve``: without
    being named it does nothing, and the radix-cache backend it registers is missing.
    """
    named = os.getenv("SGLANG_PLUGINS", "").split(",")
    if ENGINE_PLUGIN in (name.strip() for name in named):
        _or_exit(_patch_engine)


def load_cpu_plugin() -> None:
    """Mend what SGLang lacks on machines without an accelerator."""
    if activate() == PLATFORM_CLASS:
        _or_exit(_patch_cpu)


def _patch_cpu() -> None:
    from sglang_patches.bindings import CPU_PATCHES, apply

    apply(CPU_PATCHES)


def _patch_engine() -> None:
    from sglang_patches.bindings import apply

    apply()

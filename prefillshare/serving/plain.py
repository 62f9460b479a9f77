"""SGLang as released, with the settings of a deployment: what PrefillShare is measured against.

The same commands as `prefillshare.serving.arguments` makes, without the shared radix cache and without the engine
plugin. The platform plugin stays: without it, SGLang does not run on machines without an accelerator.
"""

from dataclasses import replace

from prefillshare.serving.arguments import EngineCommand
from sglang_patches.names import CPU_PLUGIN

_BACKEND_FLAG = "--radix-cache-backend"


def plain_command(command: EngineCommand) -> EngineCommand:
    """Return `command` for an engine that nobody patched."""
    argv = list(command.argv)
    flag = argv.index(_BACKEND_FLAG)
    del argv[flag : flag + 2]  # the first one; further arguments of the caller may ask for another
    return replace(command, argv=tuple(argv), environment={**command.environment, "SGLANG_PLUGINS": CPU_PLUGIN})

"""What a process that runs `prefillshare quantize` imports, once for all of them: others are forked from it."""

import os
import signal
import sys
from pathlib import Path

# SGLang's server renders conversations.
import sglang.srt.entrypoints.openai.serving_chat  # noqa: F401
import torch

import prefillshare.quantize.run  # noqa: F401
from prefillshare.cli.main import main

_CHANGES = ("open", "os.rename", "os.remove", "os.rmdir", "os.mkdir", "shutil.rmtree", "shutil.move")
"""What Python tells before it does it."""


def quantise_as_program(file: Path, options: list[str], killed_after: Path | None = None) -> None:
    """Run the command in this process.

    On a busy machine, whoever is to kill it when the file `killed_after` is there may come too late: it kills itself
    before it opens, moves or removes the next one.
    """

    def look(event: str, arguments: tuple[object, ...]) -> None:
        if event in _CHANGES and killed_after is not None and killed_after.exists():
            os.kill(os.getpid(), signal.SIGKILL)

    if killed_after is not None:
        sys.addaudithook(look)
    torch.set_num_threads(1)
    sys.argv = ["prefillshare", "quantize", str(file), *options]
    main()

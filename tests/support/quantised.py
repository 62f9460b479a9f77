"""What a process that runs `prefillshare quantize` imports, once for all of them: others are forked from it."""

import sys
from pathlib import Path

# SGLang's server renders conversations.
import sglang.srt.entrypoints.openai.serving_chat  # noqa: F401
import torch

import prefillshare.quantize.run  # noqa: F401
from prefillshare.cli.main import main


def quantise_as_program(file: Path, options: list[str]) -> None:
    """Run the command in this process."""
    torch.set_num_threads(1)
    sys.argv = ["prefillshare", "quantize", str(file), *options]
    main()

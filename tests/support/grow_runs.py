"""A task that grows in a process which kills itself without warning when the run says a text, however slow the machine
is: `python -m tests.support.grow_runs FAMILY TASK TEXT`.
"""

import os
import signal
import sys
from pathlib import Path

from prefillshare.config import load_grow_task
from prefillshare.grow.run import grow
from tests.support.training_runs import Watcher


class Mortal(Watcher):
    """Ends its process at a text."""

    def __init__(self, last_words: str) -> None:
        super().__init__()
        self._last_words = last_words

    def say(self, text: str) -> None:
        if self._last_words in text:
            os.kill(os.getpid(), signal.SIGKILL)


if __name__ == "__main__":
    grow(Path(sys.argv[1]), load_grow_task(Path(sys.argv[2])), Mortal(sys.argv[3]))

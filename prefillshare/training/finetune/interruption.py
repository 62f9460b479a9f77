"""A run that somebody ends before its time: the step goes on to its end, and what was learned is kept.

In one process only: several would have to agree on the step.
"""

import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from types import FrameType
from typing import Any

from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

_SIGNALS = (signal.SIGINT, signal.SIGTERM)


class Interruption(TrainerCallback):
    """After the first Ctrl-C or SIGTERM, the step that runs is the last one, with a checkpoint; a second ends it."""

    def __init__(self) -> None:
        self.signal: int | None = None
        """The first one that came."""
        self._before: dict[int, Any] = {}

    @contextmanager
    def watched(self) -> Iterator[None]:
        """Take signals until the end of the block; then end the process's work as the signal asked.

        Raises: KeyboardInterrupt, or SystemExit as a shell counts signals.
        """
        if threading.current_thread() is not threading.main_thread():  # no other may take signals
            yield
            return
        # One that is ignored, as by nohup or a shell's &, stays so.
        taken = [number for number in _SIGNALS if signal.getsignal(number) != signal.SIG_IGN]
        self._before = {number: signal.signal(number, self._note) for number in taken}
        try:
            yield
        finally:
            self._restore()
        if self.signal == signal.SIGINT:
            raise KeyboardInterrupt
        if self.signal is not None:
            raise SystemExit(128 + self.signal)

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        if self.signal is not None:
            # Logged, too, so that the next line of the log begins where the run goes on.
            control.should_log = control.should_save = control.should_training_stop = True

    def _note(self, number: int, frame: FrameType | None) -> None:
        self.signal = number
        self._restore()
        # Not by print: the signal may have come in the middle of one.
        with suppress(OSError):
            os.write(2, b"\nends after this step, with a checkpoint; once more ends it at once\n")

    def _restore(self) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)
        self._before = {}

"""What was asked in earlier chats: one private file below the state directory, of bounded size."""

import contextlib
import os
from collections.abc import Iterable
from pathlib import Path

from prompt_toolkit.history import FileHistory, History, InMemoryHistory

from prefillshare.errors import ConfigError
from prefillshare.places import state_directory

NAME = "chat_history"
NUM_KEPT = 1000


def open_history() -> History:
    """The user's history; one for this chat alone where no file can be written."""
    try:
        file = state_directory() / NAME
        file.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        os.close(os.open(file, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600))
    except (OSError, ConfigError):
        return InMemoryHistory()
    return _Kept(file)


class _Kept(FileHistory):
    """A history that never stands in the way of a chat."""

    def __init__(self, file: Path) -> None:
        super().__init__(str(file))
        newest = list(super().load_history_strings())
        if len(newest) > 2 * NUM_KEPT:
            with contextlib.suppress(OSError):
                os.truncate(file, 0)
            for text in reversed(newest[:NUM_KEPT]):
                self.store_string(text)

    def load_history_strings(self) -> Iterable[str]:
        try:
            return list(super().load_history_strings())
        except OSError:
            return []

    def store_string(self, string: str) -> None:
        with contextlib.suppress(OSError):  # a full disk, say
            super().store_string(string)

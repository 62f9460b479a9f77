"""The account of this process's file descriptors: who may have one more, and what is said when there is none.

A call takes three: the client's connection and one to either worker. Of the limit some are set aside:

    limit   |------- available: 3 per call, 1 per other connection -------|--- spare ---|--- reserve ---|

The reserve is for the program, health checks and what state pages ask workers. Out of the spare ones connections are
taken so that they can be told no, and can see state pages; for the last quarter of them, idle ones are closed.
"""

import contextlib
import errno
import logging
import os
import socket
import time
from collections.abc import Iterator

from prefillshare.open_files import FILES_PER_CALL
from prefillshare.routing.errors import ShortageError

log = logging.getLogger(__name__)

_PER_CALL = FILES_PER_CALL - 1
"""Descriptors of a call beside its client's connection."""
_PER_WORKER = 4
_MARGIN = 16
_MAX_SPARE = 1024
_UNLIMITED = 1 << 20
_LOG_PAUSE_S = 60.0
_SHORTAGES = frozenset((errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.ENOBUFS, errno.EADDRNOTAVAIL))
_NAME_SHORTAGES = frozenset((socket.EAI_MEMORY, socket.EAI_SYSTEM))


def is_own_shortage(error: BaseException) -> bool:
    """Whether a connection failed since this process or machine has no descriptor, memory or port left for it."""
    error = getattr(error, "os_error", error)  # what aiohttp has wrapped
    numbers = _NAME_SHORTAGES if isinstance(error, socket.gaierror) else _SHORTAGES
    return isinstance(error, OSError) and error.errno in numbers


class Descriptors:
    """Counts connections and calls; `limit` None is no limit."""

    def __init__(self, limit: int | None, num_workers: int) -> None:
        self.limit = _UNLIMITED if limit is None else limit
        reserve = min(_num_open() + _MARGIN + _PER_WORKER * num_workers, self.limit // 2)
        self.spare = min(_MAX_SPARE, self.limit // 8)
        self.available = self.limit - reserve - self.spare
        self.num_connections = 0
        self.num_calls = 0
        self._logged_at = -_LOG_PAUSE_S

    @property
    def max_calls(self) -> int:
        """Calls that can run at a time."""
        return self.available // FILES_PER_CALL

    @property
    def is_short(self) -> bool:
        """Whether connections and calls have taken all but the spare descriptors."""
        return self.num_connections + _PER_CALL * self.num_calls > self.available

    @property
    def is_spent(self) -> bool:
        """Whether they have taken most of the spare ones as well."""
        return self.num_connections + _PER_CALL * self.num_calls > self.available + 3 * self.spare // 4

    @property
    def is_exhausted(self) -> bool:
        """Whether they have taken all of the spare ones."""
        return self.num_connections + _PER_CALL * self.num_calls > self.available + self.spare

    @contextlib.contextmanager
    def call(self) -> Iterator[None]:
        """Count one more call while the block runs.

        Raises: ShortageError when there are no descriptors for it.
        """
        self.num_calls += 1
        try:
            if self.is_short:
                raise self.refusal()
            yield
        finally:
            self.num_calls -= 1

    def refusal(self) -> ShortageError:
        """Return what a client is told when there is no room; tell the log, too."""
        return self._note(
            f"the router has no room for this: {self.limit} open files allow {self.max_calls} calls at a time, and "
            f"{self.available} connections: try again in 2 s, or raise the hard limit (ulimit -Hn) for `launch`"
        )

    def cannot_connect(self, worker: str, error: OSError) -> ShortageError:
        """Return what it is told when no connection to `worker` could be opened for want of something here."""
        return self._note(
            f"the router could not connect to {worker} because of a shortage of its own ({error.strerror}); "
            f"{self.limit} open files allow {self.max_calls} calls at a time: try again in 2 s"
        )

    def _note(self, text: str) -> ShortageError:
        """Return the error that says `text`; the log has it once a minute, for there may be thousands."""
        error = ShortageError(text, headers={"Retry-After": "2"})
        if time.monotonic() - self._logged_at >= _LOG_PAUSE_S:
            self._logged_at = time.monotonic()
            log.warning(
                "%s (%d connections, %d calls now; said once in %g s)",
                error,
                self.num_connections,
                self.num_calls,
                _LOG_PAUSE_S,
            )
        return error


def _num_open() -> int:
    return len(os.listdir("/dev/fd"))

"""Calls of Ray that end: Ray itself waits for ever for a head, a raylet or a client server that has gone.

All that a process wants of Ray goes through one thread of its own, and who asks waits for so long and no longer. So
calls come one after the other, a call that hangs keeps those after it from being begun, and signals reach the main
thread, which is never inside of Ray.
"""

import queue
import threading
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass
from typing import Any, TypeVar

from prefillshare.errors import ServerError

Answer = TypeVar("Answer")

CALL_S = 30.0
"""Longest wait for what takes milliseconds where all is well, and seconds on a machine that is busy."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Question:
    call: Callable[[], Any]
    answer: "Future[Any]"


class RayThread:
    """The thread in which a process calls Ray."""

    def __init__(self) -> None:
        self.address = "this node"
        """Where the cluster is, for messages."""
        self._questions: queue.SimpleQueue[_Question] = queue.SimpleQueue()
        self._lock = threading.Lock()
        self._thread: threading.Thread | None = None

    def run(self, doing: str, call: Callable[[], Answer], *, timeout_s: float = CALL_S) -> Answer:
        """Return what `call` returns, or raise what it raises; `doing` says what was wanted.

        Raises: ServerError when that takes longer than `timeout_s` seconds, or no thread can be had for it. A call that
        has not begun by then never does.
        """
        self._begin()
        answer: Future[Answer] = Future()
        self._questions.put(_Question(call=call, answer=answer))
        try:
            return answer.result(timeout_s)
        except TimeoutError:
            if not answer.cancel() and answer.done():
                return answer.result()  # it came at the last moment, or the error is the call's own
            raise ServerError(
                f"the Ray cluster at {self.address} did not answer within {timeout_s:g} s ({doing}): what serves goes "
                "on serving; see that the head runs, and Ray on this machine (`ray status`), then try again"
            ) from None

    def _begin(self) -> None:
        with self._lock:
            if self._thread is not None:
                return
            # A process ends although its call hangs.
            thread = threading.Thread(target=self._answer_all, name="ray-calls", daemon=True)
            try:
                thread.start()
            except RuntimeError as error:
                raise ServerError(f"Ray cannot be called ({error}): raise the limit of processes (ulimit -u)") from None
            self._thread = thread

    def _answer_all(self) -> None:
        while True:
            question = self._questions.get()
            if not question.answer.set_running_or_notify_cancel():
                continue  # nobody waits for it any more
            try:
                question.answer.set_result(question.call())
            except BaseException as error:  # the end of a thread: whoever asked gets it
                question.answer.set_exception(error)


RAY = RayThread()
"""This process's, as Ray itself is one for a process."""

"""Work that may never end, done beside whoever asks for it."""

import threading
from collections.abc import Callable
from concurrent.futures import Future
from typing import TypeVar

T = TypeVar("T")


def do_beside(work: Callable[[], T], name: str) -> "Future[T]":
    """Do in a thread of that name what may never end; this process ends all the same.

    What it raises, or that there is no thread for it now, is the future's exception.
    """
    done: Future[T] = Future()

    def do() -> None:
        try:
            done.set_result(work())
        except Exception as error:  # the end of a thread: whoever waits gets it
            done.set_exception(error)

    try:
        threading.Thread(target=do, name=name, daemon=True).start()
    except RuntimeError as error:  # no more threads for this user at this moment
        done.set_exception(error)
    return done

"""Calls of Ray that hang end for whoever asks."""

import threading

import pytest

from prefillshare.cluster.bounded import RayThread
from prefillshare.errors import ServerError

SHORT_S = 0.2
LONG_S = 60.0


def test_a_call_that_hangs_ends_with_what_was_wanted_and_the_next_one_never_begins() -> None:
    calls, gone, begun = RayThread(), threading.Event(), threading.Event()
    calls.address = "head:6379"
    with pytest.raises(ServerError, match=r"head:6379 did not answer within 0\.2 s \(listing\).*`ray status`"):
        calls.run("listing", gone.wait, timeout_s=SHORT_S)
    with pytest.raises(ServerError, match="asking"):
        calls.run("asking", begun.set, timeout_s=SHORT_S)
    gone.set()
    assert calls.run("afterwards", lambda: 1, timeout_s=LONG_S) == 1
    assert not begun.is_set()


def test_without_a_thread_it_is_said_and_the_next_call_has_one(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(thread: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    calls = RayThread()
    with monkeypatch.context() as patch:
        patch.setattr(threading.Thread, "start", refuse)
        with pytest.raises(ServerError, match=r"can't start new thread.*ulimit -u"):
            calls.run("listing", lambda: 1, timeout_s=SHORT_S)
    assert calls.run("listing", lambda: 1, timeout_s=LONG_S) == 1


def test_an_answer_and_an_error_are_the_calls_own() -> None:
    def fail() -> None:
        raise TimeoutError("of the call")

    calls = RayThread()
    assert calls.run("counting", lambda: 2, timeout_s=LONG_S) == 2
    with pytest.raises(TimeoutError, match="of the call"):
        calls.run("failing", fail, timeout_s=LONG_S)


def test_who_asks_is_not_inside_of_ray() -> None:
    """So a signal finds the main thread where it may raise."""
    calls = RayThread()
    assert calls.run("who", threading.current_thread, timeout_s=LONG_S) is not threading.current_thread()

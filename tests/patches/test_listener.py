"""The thread that hears decode workers is started again, whatever it ended of."""

import threading

from sglang_patches.disaggregation import listener

WAIT_S = 120.0


def test_it_is_started_again_though_no_thread_was_free(monkeypatch):
    monkeypatch.setattr(listener, "AGAIN_S", 0.001)
    hears_again, starts = threading.Event(), []

    def hear() -> None:
        if len(starts) > 1:
            hears_again.set()
            threading.Event().wait()

    def start() -> None:
        starts.append(len(starts))
        if len(starts) == 2:
            raise RuntimeError("can't start new thread")
        threading.Thread(target=hear, name=f"Thread-1 {listener.NAME}", daemon=True).start()

    listener.keep_listening(start)
    assert hears_again.wait(WAIT_S)
    assert len(starts) == 3

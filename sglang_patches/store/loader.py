"""The thread that brings pages from the store into the host tier: ended and begun anew when everything is flushed."""

from __future__ import annotations

import threading
import time
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from sglang.srt.managers.cache_controller import HiCacheController


def stop_loading(controller: HiCacheController) -> threading.Thread:
    """End the threads, which look for their end once a second if nothing wakes them; the one that loaded."""
    controller.storage_stop_event.set()
    for queue in (controller.prefetch_queue, controller.backup_queue, controller.prefetch_buffer):
        queue.put(None)
    loader: threading.Thread = controller.prefetch_io_aux_thread
    loader.join()
    return loader


def wait_for_loader(controller: HiCacheController, ended: threading.Thread | None) -> None:
    """The thread that upstream started makes queue and loader: what came before it would wait in the old queue."""
    while controller.prefetch_io_aux_thread is ended:
        time.sleep(0.001)

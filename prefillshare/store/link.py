"""An engine's link to its deployment's store: it serves without one where it has to, and takes it up when it can.

    open --files removed, replaced, cut--> off --opened again, 5 s later, then 10, at most every minute--> open
    open --to forget all, which cannot be now--> off --opened again and all forgotten--> open

While the store is off everything is a miss and nothing is kept. Each reason is told once; what the engine counted
before goes on to count.
"""

import logging
import re
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import replace

from prefillshare.errors import StoreError
from prefillshare.store.base import Bytes
from prefillshare.store.identity import StoreIdentity
from prefillshare.store.settings import StoreSettings
from prefillshare.store.stats import StoreStats
from prefillshare.store.store import KvStore

_LOOK_EVERY_S = 1.0
_FIRST_PAUSE_S = 5.0
_LONGEST_PAUSE_S = 60.0
_NOT_FORGOTTEN = "all is to be forgotten, and another process holds the store's table (one that was stopped?)"
_LATER = "it is opened again as soon as that can be"

_NUMBER = re.compile(r"\d[\d,]*")

logger = logging.getLogger(__name__)


class StoreLink:
    """What `KvStore` does, by whichever view is open; any thread may ask."""

    def __init__(
        self, settings: StoreSettings, identity: StoreIdentity, clock: Callable[[], float] = time.monotonic
    ) -> None:
        """Open the store; where that fails, say so and go on without."""
        self._settings, self._identity, self._clock = settings, identity, clock
        self._store: KvStore | None = None
        self._why_off: str | None = None
        self._earlier = StoreStats()
        """Counts of views that were given up."""
        self._told: set[str] = set()
        """Reasons why the store was off."""
        self._told_of_calls: set[str] = set()
        """What views have told of calls that failed: one that comes after another does not tell it again."""
        self._pause_s = _FIRST_PAUSE_S
        self._due = 0.0
        self._looking = threading.Lock()
        """Held by whoever looks after the view, and by the thread that opens another one; nobody waits for it."""
        self._is_closed = False
        self._changing = threading.Lock()
        """Held while all is forgotten, and while another view comes: none comes with pages from before a flush."""
        self._has_to_forget = False
        """Whether all is to be forgotten before the store is open again."""
        self._open()

    @property
    def is_open(self) -> bool:
        """Whether there is a store now."""
        self._look()
        return self._store is not None

    def count_present(self, keys: Sequence[bytes]) -> int:
        """As `KvStore.count_present`."""
        return store.count_present(keys) if (store := self._view()) is not None else 0

    def read(self, keys: Sequence[bytes], into: Sequence[Bytes]) -> int:
        """As `KvStore.read`."""
        return store.read(keys, into) if (store := self._view()) is not None else 0

    def write(self, keys: Sequence[bytes], pages: Sequence[Bytes], *, prefix: Sequence[bytes] = ()) -> int:
        """As `KvStore.write`."""
        return store.write(keys, pages, prefix=prefix) if (store := self._view()) is not None else 0

    def forget_all(self) -> None:
        """Forget all pages of this identity, for everybody who uses the store.

        Where that cannot be done now, nothing of it is found here until it is done.
        """
        with self._changing:
            store = self._view()
            self._has_to_forget = store is None or store.forget_all() is None
            if store is None or not self._has_to_forget:
                return
            with self._looking:  # there is a store, so that nobody opens another one, which takes long
                if self._store is store:
                    self._give_up(store, store.find_loss() or _NOT_FORGOTTEN)

    def stats(self) -> StoreStats:
        """What the store holds, what this process did with it since its start, and why there is none."""
        store = self._view()
        now = StoreStats() if store is None else store.stats()
        return replace(now.with_counts_of(self._earlier), why_off=self._why_off)

    def close(self) -> None:
        """Let go of the store for good."""
        self._is_closed = True
        store, self._store = self._store, None
        if store is not None:
            store.close()

    # -- parts --------------------------------------------------------------------------------------------------------

    def _view(self) -> KvStore | None:
        self._look()
        return self._store

    def _look(self) -> None:
        """Now and then see whether others would still find what is written here; begin to open what is off.

        Opening waits for others who do, and allocates: a thread of its own does it, and no call waits for that.
        """
        if self._clock() < self._due or self._is_closed or not self._looking.acquire(blocking=False):
            return
        if (store := self._store) is None:
            self._begin_to_reopen()
            return
        try:
            self._due = self._clock() + _LOOK_EVERY_S
            if (loss := store.find_loss()) is not None:
                self._give_up(store, loss)
        finally:
            self._looking.release()

    def _begin_to_reopen(self) -> None:
        try:
            threading.Thread(target=self._reopen, name="open store", daemon=True).start()
        except RuntimeError as error:  # no more threads for this user: no call fails of that
            self._turn_off(f"it could not be opened again ({error}): raise the limit of processes (ulimit -u)")
            self._looking.release()

    def _give_up(self, store: KvStore, loss: str) -> None:
        self._turn_off(f"{loss}: {_LATER}")
        counted = store.stats().with_counts_of(self._earlier)
        self._store = None
        store.close()
        self._earlier = replace(counted, tiers=(), failures=counted.failures + 1)

    def _reopen(self) -> None:
        try:
            self._open()
        finally:
            self._looking.release()

    def _open(self) -> None:
        try:
            store = KvStore.attach(self._settings, self._identity, self._told_of_calls)
        except StoreError as error:
            self._turn_off(str(error))
            return
        with self._changing:
            if self._has_to_forget and store.forget_all() is None:
                store.close()
                self._turn_off(f"{_NOT_FORGOTTEN}: {_LATER}")
                return
            was_off = self._why_off is not None
            self._why_off, self._pause_s, self._due = None, _FIRST_PAUSE_S, self._clock() + _LOOK_EVERY_S
            self._has_to_forget, self._store = False, store  # last: who sees a store is told nothing against it
        if self._is_closed:
            self.close()
        if was_off:
            logger.warning("prefillshare: the store is open again")

    def _turn_off(self, reason: str) -> None:
        self._why_off = reason
        self._due = self._clock() + self._pause_s
        self._pause_s = min(2 * self._pause_s, _LONGEST_PAUSE_S)
        # How much is free, or how long a file is by now, is another number each time, and no other reason.
        if (kind := _NUMBER.sub("", reason)) not in self._told:
            self._told.add(kind)
            logger.error("prefillshare: this engine goes on without the store: %s", reason)

"""Where a host lays pages for its peers: regions of registered memory, each lent for one answer.

A reader says when it is done; a region of one that never does is taken back after `LEASE_S`. Whoever reads later than
that may find other pages there, and their codes do not fit.
"""

import secrets
import threading
import time

from prefillshare.store.base import Bytes
from prefillshare.store.remote.link import READ_BYTES, Exporter

NUM_REGIONS = 4
LEASE_S = 10.0


class Staging:
    """Regions of memory that peers may read."""

    def __init__(self) -> None:
        self.exporter = Exporter(NUM_REGIONS * READ_BYTES)
        self._changed = threading.Condition()
        self._leases: dict[bytes, tuple[int, float]] = {}
        """Lease -> its region, and when it ends."""
        threading.Thread(target=self._turn, name="staging", daemon=True).start()

    def lend(self, timeout_s: float) -> tuple[bytes, Bytes] | None:
        """A lease and its region; None when all are lent."""
        with self._changed:
            if not self._changed.wait_for(self._has_room, timeout_s):
                return None
            taken = {region for region, _ in self._leases.values()}
            region = next(number for number in range(NUM_REGIONS) if number not in taken)
            lease = secrets.token_bytes(16)
            self._leases[lease] = region, time.monotonic() + LEASE_S
            self._changed.notify_all()
        start = region * READ_BYTES
        return lease, self.exporter.memory[start : start + READ_BYTES]

    def take_back(self, lease: bytes) -> None:
        """End a lease; one that has ended is nothing."""
        with self._changed:
            if self._leases.pop(lease, None) is not None:
                self._changed.notify_all()

    def _has_room(self) -> bool:
        return len(self._leases) < NUM_REGIONS

    def _turn(self) -> None:
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._leases)
            for lease in self.exporter.turn():
                self.take_back(lease)
            now = time.monotonic()
            for lease in [lease for lease, (_, ends) in list(self._leases.items()) if ends < now]:
                self.take_back(lease)

"""The store as an engine uses it: pages by key, in memory and on disk.

After `attach` nothing raises for what the machine does: a page that cannot be had is a miss, one that cannot be kept is
not kept, and the first failure of each kind is told in the log.
"""

import logging
from collections.abc import Callable, Sequence
from functools import partial
from typing import Self, TypeVar

import numpy as np

from prefillshare.store.attach import OpenStore, open_store
from prefillshare.store.base import Bytes
from prefillshare.store.bus_errors import keep_handling
from prefillshare.store.counts import Counts, Speed
from prefillshare.store.identity import StoreIdentity
from prefillshare.store.layout import NO_SLOT
from prefillshare.store.settings import StoreSettings
from prefillshare.store.stats import StoreStats, TierStats
from prefillshare.store.table import Keys, Slots, as_words
from prefillshare.store.tier import Admission, Payload, Tier

_BATCH_BYTES = 32 << 20
"""What is claimed at once, and at most lies encoded or on its way between tiers in this process."""
_MOST_PER_BATCH = 256

Result = TypeVar("Result")
logger = logging.getLogger(__name__)


class KvStore:
    """One process's view of a store; any thread may use it, and so may children that are forked."""

    def __init__(self, opened: OpenStore, told: set[str] | None = None) -> None:
        """Of the tiers the first is the fastest: what it gives up goes to the next, what is read there comes back.

        `told`: as `attach` takes it.
        """
        self._resources = opened.resources
        self._tiers: tuple[Tier, ...] = opened.tiers
        self._page_bytes = opened.identity.page_bytes
        self._batch = max(1, min(_MOST_PER_BATCH, _BATCH_BYTES // self._page_bytes))
        self._counts = Counts()
        self._read_speeds = {tier.pages.medium: Speed() for tier in self._tiers}
        self._write_speeds = {tier.pages.medium: Speed() for tier in self._tiers}
        self._told = set() if told is None else told
        self._inside: list[None] = []
        """One for each call under way. Lists grow and shrink in one step, so no lock is left locked in a child."""
        self._is_closed = False

    @classmethod
    def attach(cls, settings: StoreSettings, identity: StoreIdentity, told: set[str] | None = None) -> Self:
        """Open the deployment's store for this identity, or make it.

        `told`: kinds of failures that are in the log already; those that are told here come to it.
        Raises: StoreError with what is wrong, and the fix.
        """
        return cls(open_store(settings, identity), told)

    def count_present(self, keys: Sequence[bytes]) -> int:
        """How many pages, from the first on, are there; all of these count as used now, the first the latest."""
        return self._guarded(lambda: self._count_present(keys), 0)

    def read(self, keys: Sequence[bytes], into: Sequence[Bytes]) -> int:
        """Fill the buffers with the pages, from the first on, and return how many came whole.

        Shapes: each buffer is flat and contiguous, of `page_bytes`. Effects: buffers after the last page that came may
        hold anything.
        """
        return self._guarded(lambda: self._read(keys, into), 0)

    def write(self, keys: Sequence[bytes], pages: Sequence[Bytes], *, prefix: Sequence[bytes] = ()) -> int:
        """Keep the pages, in their chain's order, and return how many of them are there now; known ones are not
        written.

        `prefix`: the keys of the chain before them, if they are at hand: they count as used, and later than these. No
        page gives way to a page that follows it: of a chain longer than the store, the start is kept.
        """
        return self._guarded(lambda: self._write(keys, pages, prefix), 0)

    def spill(self) -> int:
        """Copy what only memory holds to the disk, what was used last first, as far as there is room that is older.

        For the end of a deployment; without a disk tier nothing happens. Returns the number of pages on disk then.
        """
        return self._guarded(self._spill, 0)

    def forget_all(self) -> int | None:
        """Forget all pages of this identity, for everybody who uses the store; return how many there were.

        None where that cannot be done now, as when another process holds a table too long: some or all are still there.
        On disk their bytes stay until others take their room: a store whose tables in memory are gone, as after the
        last launch was stopped, finds them again.
        """
        return self._guarded(lambda: sum(tier.table.forget_all() for tier in self._tiers), None)

    def stats(self) -> StoreStats:
        """What is there, for all processes, and what this one did."""
        counts = self._counts
        return StoreStats(
            tiers=self._guarded(lambda: tuple(self._tier_stats(tier) for tier in self._tiers), ()),
            hit_pages=counts.hit,
            missed_pages=counts.missed,
            written_pages=counts.written,
            refused_pages=counts.refused,
            damaged_pages=counts.damaged,
            promoted_pages=counts.promoted,
            demoted_pages=counts.demoted,
            failures=counts.failures,
        )

    @property
    def is_open(self) -> bool:
        """Whether it was not closed."""
        return not self._is_closed

    def find_loss(self) -> str | None:
        """What happened to the files behind this view, if others would not find them any more; None as long as they
        would."""
        keep_handling()
        return self._entered(lambda: next((loss for tier in self._tiers if (loss := tier.find_loss())), None), None)

    def close(self) -> None:
        """Let go of the store, which stays; the object is of no use afterwards, and says so as misses.

        Calls of other threads that are under way end first: the numbers of their files could be another file's next.
        """
        self._is_closed = True
        if not self._inside:
            self._let_go()

    # -- parts --------------------------------------------------------------------------------------------------------

    def _let_go(self) -> None:
        self._tiers = ()  # first: a mapping holds its file open, and with that in use
        self._resources.close()

    def _count_present(self, keys: Sequence[bytes]) -> int:
        found = self._find(as_words(keys))
        present = _leading(np.any([slots != NO_SLOT for slots in found], axis=0)) if found else 0
        self._touch([slots[:present] for slots in found])
        return present

    def _find(self, keys: Keys) -> list[Slots]:
        """For each tier, the slots of the pages that no faster tier has."""
        found: list[Slots] = []
        missing = np.ones(len(keys), dtype=bool)
        for tier in self._tiers:
            slots = np.full(len(keys), NO_SLOT)
            slots[missing] = tier.find(keys[missing])
            missing &= slots == NO_SLOT
            found.append(slots)
        return found

    def _touch(self, found: Sequence[Slots]) -> None:
        for tier, slots in zip(self._tiers, found, strict=True):
            if len(slots):
                tier.table.touch(slots)

    def _read(self, keys: Sequence[bytes], into: Sequence[Bytes]) -> int:
        words = as_words(keys)
        num_read = 0
        started = self._tiers[0].table.tick(0) if self._tiers else 0
        for start in range(0, len(keys), self._batch):
            end = min(start + self._batch, len(keys))
            came = self._read_batch(words[start:end], into[start:end], started + 1)
            num_read += came
            if came < end - start:
                self._drop_damaged_behind(words, into, end)
                break
        self._touch(self._find(words[:num_read]))  # at once, so that the head is the newest
        self._counts.hit += num_read
        self._counts.missed += len(keys) - num_read
        return num_read

    def _drop_damaged_behind(self, words: Keys, into: Sequence[Bytes], start: int) -> None:
        """Look at the rest of a chain that lost a page: the whole pages behind it are of use once that is written
        again, and one that is damaged as well would end the chain there the next time."""
        for first in range(start, len(words), self._batch):
            last = min(first + self._batch, len(words))
            for tier, slots in zip(self._tiers, self._find(words[first:last]), strict=True):
                self._read_tier(tier, words[first:last], slots, into[first:last], [None] * (last - first))

    def _read_batch(self, keys: Keys, into: Sequence[Bytes], older_than: int) -> int:
        found = self._find(keys)
        present = _leading(np.any([slots != NO_SLOT for slots in found], axis=0)) if found else 0
        payloads: list[Payload | None] = [None] * present
        for tier, slots in zip(self._tiers, found, strict=True):
            self._read_tier(tier, keys, slots[:present], into, payloads)
        came = _leading(np.array([payload is not None for payload in payloads], dtype=bool))
        for tier, slots in zip(self._tiers[1:], found[1:], strict=True):
            self._promote(tier, [payloads[page] for page in np.flatnonzero(slots[:came] != NO_SLOT)], older_than)
        return came

    def _read_tier(
        self, tier: Tier, keys: Keys, slots: Slots, into: Sequence[Bytes], payloads: list[Payload | None]
    ) -> None:
        pages = np.flatnonzero(slots != NO_SLOT).tolist()
        if not pages:
            return
        with self._read_speeds[tier.pages.medium].measured(len(pages) * self._page_bytes):
            read = tier.read_all([(keys[page], int(slots[page]), into[page]) for page in pages])
        self._tell_failure(tier)
        for page, payload in zip(pages, read, strict=True):
            payloads[page] = payload if payload is None else self._tiers[0].as_kept_here(payload, into[page])
            if payload is None:
                self._drop_damaged(tier, keys, int(slots[page]), page)

    def _drop_damaged(self, tier: Tier, keys: Keys, slot: int, page: int) -> None:
        if tier.drop_damaged(keys[page], slot):
            self._counts.damaged += 1
            self._tell("damaged", "a damaged page in %s was dropped: it will be computed again", tier.pages.medium)

    def _promote(self, tier: Tier, payloads: Sequence[Payload | None], older_than: int) -> None:
        """Bring pages that were read in a slower tier to the fastest, where they are the newest."""
        whole = [payload for payload in payloads if payload is not None]
        first = self._tiers[0]
        if whole and tier is not first:
            now = first.table.tick(len(whole))
            ticks = range(now + len(whole), now, -1)
            self._counts.promoted += self._admit(0, whole, ticks, older_than).num_written

    def _demote(self, number: int, payloads: Sequence[Payload]) -> None:
        """Hand pages that lost their room, the oldest first, to the next tier."""
        if number < len(self._tiers) and payloads:
            now = self._tiers[number].table.tick(len(payloads))
            admitted = self._admit(number, payloads, range(now + 1, now + len(payloads) + 1), now + 1)
            self._counts.demoted += admitted.num_written

    def _demote_guarded(self, number: int, payloads: Sequence[Payload]) -> None:
        """A slower tier that fails costs what would have gone there, and not what comes to the faster one."""
        self._guarded(lambda: self._demote(number, payloads), None)

    def _admit(self, number: int, payloads: Sequence[Payload], ticks: Sequence[int], older_than: int) -> Admission:
        tier, medium = self._tiers[number], self._tiers[number].pages.medium
        is_last = number + 1 == len(self._tiers)
        demote = None if is_last else partial(self._demote_guarded, number + 1)
        with self._write_speeds[medium].measured(sum(len(payload.data) for payload in payloads)):
            admitted = tier.admit(payloads, ticks, older_than=older_than, demote=demote)
        self._tell_failure(tier)
        self._counts.evicted[medium] = self._counts.evicted.get(medium, 0) + admitted.num_evicted
        return admitted

    def _write(self, keys: Sequence[bytes], pages: Sequence[Bytes], prefix: Sequence[bytes]) -> int:
        if not keys or not self._tiers:
            return 0
        words = as_words([*prefix, *keys])
        first, chain = self._tiers[0], len(words)
        slots = first.find(words)
        now = first.table.tick(0)
        first.table.touch(slots)
        num_kept = int(np.count_nonzero(slots[len(prefix) :] != NO_SLOT))
        missing = [page for page in range(len(keys)) if slots[len(prefix) + page] == NO_SLOT]
        for start in range(0, len(missing), self._batch):
            batch = missing[start : start + self._batch]
            ticks = [now + chain - len(prefix) - page for page in batch]
            taken = self._write_batch([(words[len(prefix) + page], pages[page]) for page in batch], ticks, now + 1)
            num_kept += taken
            if taken < len(batch):  # no room for what comes later in the chain
                break
        self._counts.refused += len(keys) - num_kept
        return num_kept

    def _write_batch(self, batch: Sequence[tuple[Keys, Bytes]], ticks: Sequence[int], older_than: int) -> int:
        payloads = self._tiers[0].pack_all(batch)
        admitted = self._admit(0, payloads, ticks, older_than)
        self._counts.written += admitted.num_written
        overflow = self._overflow(admitted.left)
        return admitted.num_written + admitted.num_known + overflow

    def _overflow(self, payloads: Sequence[Payload]) -> int:
        """Give the end of a chain that is longer than the fastest tier to the next one; return how much is there
        then."""
        if len(self._tiers) < 2 or not payloads:
            return 0
        now = self._tiers[1].table.tick(len(payloads))
        admitted = self._admit(1, payloads, range(now + len(payloads), now, -1), now + 1)
        self._counts.written += admitted.num_written
        return admitted.num_written + admitted.num_known

    def _spill(self) -> int:
        if len(self._tiers) < 2:
            return 0
        memory, disk = self._tiers[0], self._tiers[1]
        slots = memory.table.ready_slots()
        now = disk.table.tick(len(slots))
        num_kept = 0
        for start in range(0, len(slots), self._batch):
            batch = slots[start : start + self._batch]
            found = [memory.payload_of(int(slot), memory.table.snapshot(np.array([slot]))[0]) for slot in batch]
            payloads = [payload for payload in found if payload is not None]
            ticks = range(now + len(slots) - start, 0, -1)
            admitted = self._admit(1, payloads, ticks, now + 1)
            num_kept += admitted.num_written + admitted.num_known
        return num_kept

    def _tier_stats(self, tier: Tier) -> TierStats:
        medium, slot_bytes = tier.pages.medium, tier.pages.slot_bytes
        num_pages, num_taken = tier.table.count()
        return TierStats(
            medium=medium,
            capacity_bytes=tier.table.num_slots * slot_bytes,
            allocated_bytes=tier.pages.num_usable() * slot_bytes,
            used_bytes=num_taken * slot_bytes,
            num_pages=num_pages,
            evicted_pages=self._counts.evicted.get(medium, 0),
            read_bytes_per_s=self._read_speeds[medium].bytes_per_s,
            write_bytes_per_s=self._write_speeds[medium].bytes_per_s,
            encoding=tier.encoding.verdict,
        )

    def _guarded(self, function: Callable[[], Result], otherwise: Result) -> Result:
        """The engine's threads end with an exception that they do not expect: it is counted and told instead."""

        def check_and_do() -> Result:
            for tier in self._tiers:
                tier.check_file()
            return function()

        return self._entered(check_and_do, otherwise)

    def _entered(self, function: Callable[[], Result], otherwise: Result) -> Result:
        self._inside.append(None)
        try:
            return otherwise if self._is_closed else function()
        except (OSError, ValueError, IndexError, ArithmeticError, MemoryError, RuntimeError, BufferError) as error:
            self._counts.failures += 1
            self._tell(type(error).__name__, "the store cannot be used, and is gone on without: %s", error)
            return otherwise
        finally:
            self._inside.pop()
            if self._is_closed and not self._inside:
                self._let_go()

    def _tell_failure(self, tier: Tier) -> None:
        """Count and tell what the system refused a tier in the middle of a call, which went on without it."""
        if (error := tier.take_failure()) is not None:
            self._counts.failures += 1
            medium = tier.pages.medium
            self._tell(f"{medium} {error.errno}", f"{medium}: pages are not kept or not found: %s", error)

    def _tell(self, kind: str, message: str, value: object) -> None:
        if kind not in self._told:
            self._told.add(kind)
            logger.warning(message, value)


def _leading(present: np.ndarray) -> int:
    """The length of the run of True at the start."""
    return len(present) if present.all() else int(present.argmin())

"""Which slot holds which page: one table in shared memory, used by all processes at once.

Reading takes no lock: a lookup copies records, and what they say is only believed when the page's digest, which covers
the key, fits (`tier.py`). Whatever a reader sees half-written is therefore a miss. Slots change hands under the lock:

    FREE or READY (the one used longest ago) --reserve, locked--> WRITING, owned by one writer
    WRITING --publish, by its owner alone-----------------------> READY
    READY --drop, locked----------------------------------------> FREE
    WRITING of a process that died --reserve, locked------------> FREE
"""

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from prefillshare.store.layout import (
    CLOCK_OFFSET,
    CONTINUED,
    FREE,
    NO_SLOT,
    READY,
    RECORD,
    RECORD_BYTES,
    WAYS,
    WRITING,
    TableLayout,
)
from prefillshare.store.lock import FileLock
from prefillshare.store.processes import is_alive, own_start_ticks

LOCK_TIMEOUT_S = 1.0
_KEY_WORDS = 4
_IMPLAUSIBLE_CLOCK = 1 << 62
"""A clock or a last use from here on was never counted up to."""

Keys = NDArray[np.uint64]
"""One row of 4 words for each key."""
Slots = NDArray[np.int64]
Records = NDArray[np.void]


@dataclass(frozen=True, slots=True, kw_only=True)
class Claim:
    """Slots that this process may write to, for the page with the index `page` in the call."""

    page: int
    slot: int
    second: int
    generation: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Victim:
    """A page that lost its slots to claims of the same reservation; its bytes are there until those are written."""

    slot: int
    record: np.void


@dataclass(frozen=True, slots=True, kw_only=True)
class Reservation:
    """What a writer got."""

    claims: list[Claim]
    victims: list[Victim]
    wanted: list[int]
    """The other pages: those that neither are there nor are being written by somebody. The first of them got the
    claims."""


def as_words(keys: Sequence[bytes]) -> Keys:
    """The keys as an array."""
    return np.frombuffer(b"".join(keys), dtype="<u8").reshape(len(keys), _KEY_WORDS)


class Table:
    """The table over `memory`, which is at least `layout.end` bytes of a file that is mapped shared."""

    def __init__(self, memory: NDArray[np.uint8], layout: TableLayout, lock: FileLock) -> None:
        num_slots = layout.num_slots
        self.num_slots = num_slots
        self._lock = lock
        self._mask = np.uint64(layout.num_buckets - 1)
        self._index = memory[layout.index : layout.states].view("<i4").reshape(layout.num_buckets, WAYS)
        self._states = memory[layout.states : layout.states + num_slots]
        self._last_use = memory[layout.last_use : layout.last_use + 8 * num_slots].view("<u8")
        raw = memory[layout.records : layout.records + RECORD_BYTES * num_slots]
        self._records = raw.view(RECORD)
        self._raw_records = raw.reshape(num_slots, RECORD_BYTES)
        self._keys = self._raw_records[:, : 8 * _KEY_WORDS].view("<u8")
        self._clock = memory[CLOCK_OFFSET : CLOCK_OFFSET + 8].view("<u8")

    # -- without the lock ---------------------------------------------------------------------------------------------

    def find(self, keys: Keys) -> Slots:
        """The slot of each key's page, or NO_SLOT."""
        return self._find(keys, (READY,))

    def snapshot(self, slots: Slots) -> Records:
        """Copies of the records; each may be half of one page's and half of the next one's."""
        # As bytes: numpy leaves what lies between and behind the fields of a record out of a copy, so that no two
        # copies would be the same.
        return self._raw_records[slots].view(RECORD)[:, 0]

    def is_unchanged(self, slot: int, record: np.void) -> bool:
        """Whether the slot still holds what it held when the record was copied."""
        return bool(self._states[slot] == READY and self._records[slot].tobytes() == record.tobytes())

    def tick(self, num_pages: int) -> int:
        """The clock, which then has moved by `num_pages`.

        Two processes may do so at once and one step be lost: pages then look as old as each other, and no more.
        """
        now = int(self._clock[0])
        if now >= _IMPLAUSIBLE_CLOCK:
            now = self._restarted_clock()
        self._clock[0] = now + num_pages
        return now

    def touch(self, slots: Slots) -> None:
        """Say that a chain was used: its head is the newest of all, so that it loses its tail first."""
        now = self.tick(len(slots))
        ticks = np.arange(now + len(slots), now, -1, dtype=np.uint64)
        self._last_use[slots[slots != NO_SLOT]] = ticks[slots != NO_SLOT]

    def publish(self, claim: Claim, *, digest: int, length: int, codec: int, last_use: int) -> None:
        """Show a page that is written wholly; only the owner of the claim does so."""
        record = self._records[claim.slot]
        if record["generation"] != claim.generation or self._states[claim.slot] != WRITING:
            return  # taken for dead, because it lives where its number cannot be seen
        record["digest"], record["length"], record["codec"] = digest, length, codec
        self._last_use[claim.slot] = last_use
        self._states[claim.slot] = READY

    def abandon(self, claims: Sequence[Claim]) -> None:
        """Give claimed slots back that will not be written; only the owner of the claims does so."""
        for claim in claims:
            is_ours = self._records[claim.slot]["generation"] == claim.generation
            if is_ours and self._states[claim.slot] == WRITING:
                self._release(claim.slot)

    def count(self) -> tuple[int, int]:
        """Pages that can be read, and slots that are taken."""
        return int(np.count_nonzero(self._states == READY)), int(np.count_nonzero(self._states != FREE))

    def ready_slots(self) -> Slots:
        """Slots of pages that can be read, the one used last first."""
        ready = np.flatnonzero(self._states == READY)
        return ready[np.argsort(self._last_use[ready])[::-1]]

    # -- under the lock -----------------------------------------------------------------------------------------------

    def reserve(
        self, keys: Keys, num_slots: Sequence[int], *, older_than: int, usable: int, grow: Callable[[], int]
    ) -> Reservation:
        """Claim one or two slots for each page that is not there, as long as there are slots.

        `older_than`: pages used since then are not given up. `usable`: slots that have bytes behind them; `grow` makes
        more and returns how many there are then.
        Raises: TimeoutError; nothing is claimed then.
        """
        with self._lock.held(LOCK_TIMEOUT_S):
            being_written = self._find(keys, (WRITING,))
            self._release_of_the_dead(being_written[being_written != NO_SLOT])
            there = self._find(keys, (READY, WRITING))
            known = (there != NO_SLOT) & (there < usable)  # of a file that was cut, the rest is known by name only
            wanted = [page for page in range(len(keys)) if not known[page]]
            free, victims = self._free_slots(sum(num_slots[page] for page in wanted), older_than, usable, grow)
            claims = []
            for page in wanted:
                if len(free) < num_slots[page]:
                    break
                slots = [free.pop(0) for _ in range(num_slots[page])]
                claims.append(self._claim(page, keys[page], slots))
        return Reservation(claims=claims, victims=victims, wanted=wanted)

    def drop(self, slot: int, record: np.void) -> bool:
        """Forget a page, if it is still the one of the record; return whether it was.

        Raises: TimeoutError.
        """
        with self._lock.held(LOCK_TIMEOUT_S):
            if not self.is_unchanged(slot, record):
                return False
            self._release(slot)
            return True

    def forget_all(self) -> int:
        """Forget every page that can be read, and return how many; what is being written stays its writer's.

        Raises: TimeoutError.
        """
        with self._lock.held(LOCK_TIMEOUT_S):
            ready = np.flatnonzero(self._states == READY)
            halves = self._records["second"][ready]
            halves = halves[(halves >= 0) & (halves < self.num_slots)]
            self._states[halves[self._states[halves] == CONTINUED]] = FREE
            self._states[ready] = FREE
            return len(ready)

    def enter(self, slot: int, record: np.void) -> bool:
        """Put a page into a table that nobody else uses yet; return whether its slots were free."""
        second = int(record["second"])
        needed = [slot] if second == NO_SLOT else [slot, second]
        is_free = all(0 <= at < self.num_slots and self._states[at] == FREE for at in needed)
        if not is_free or second == slot:
            return False
        self._records[slot] = record
        if not self._point_to(slot, self._keys[slot]):
            return False
        if second != NO_SLOT:
            self._states[second] = CONTINUED
        last_use = int(record["last_use"])
        self._last_use[slot] = last_use if last_use < _IMPLAUSIBLE_CLOCK else 0
        self._states[slot] = READY
        self._clock[0] = max(int(self._clock[0]), int(self._last_use[slot]))
        return True

    # -- parts --------------------------------------------------------------------------------------------------------

    def _find(self, keys: Keys, states: tuple[int, ...]) -> Slots:
        ways = self._index[keys[:, 0] & self._mask]
        # Whatever the index says, only what lies inside of the table is looked at.
        slots = np.where((ways >= 0) & (ways < self.num_slots), ways, 0)
        found = (self._keys[slots] == keys[:, None, :]).all(axis=2) & (ways == slots)
        found &= np.isin(self._states[slots], states)
        way = found.argmax(axis=1)
        rows = np.arange(len(keys))
        return np.where(found[rows, way], slots[rows, way], NO_SLOT).astype(np.int64)

    def _free_slots(
        self, needed: int, older_than: int, usable: int, grow: Callable[[], int]
    ) -> tuple[list[int], list[Victim]]:
        """Slots in state FREE, as many as needed if that can be, and the pages that gave theirs."""
        free = self._first_free(needed, usable)
        if len(free) < needed:
            self._reclaim(usable)
            free = self._first_free(needed, usable)
        while len(free) < needed and usable < self.num_slots and (grown := grow()) > usable:
            usable = grown
            free = self._first_free(needed, usable)
        victims = self._evict(needed - len(free), older_than, usable) if len(free) < needed else []
        return (self._first_free(needed, usable) if victims else free), victims

    def _first_free(self, needed: int, usable: int) -> list[int]:
        return np.flatnonzero(self._states[:usable] == FREE)[:needed].tolist()

    def _evict(self, needed: int, older_than: int, usable: int) -> list[Victim]:
        victims: list[Victim] = []
        for slot in self._oldest(needed, older_than, usable):
            if needed <= 0:
                break
            record = self._records[slot].copy()
            victims.append(Victim(slot=slot, record=record))
            needed -= 1 if self._second_of(slot, record) == NO_SLOT else 2
            self._release(slot)
        return victims

    def _oldest(self, needed: int, older_than: int, usable: int) -> list[int]:
        last_use = self._mended_ticks(usable)
        old = np.flatnonzero((self._states[:usable] == READY) & (last_use < older_than))
        if len(old) > needed:
            old = old[np.argpartition(last_use[old], needed - 1)[:needed]]
        return old[np.argsort(last_use[old], kind="stable")].tolist()

    def _mended_ticks(self, usable: int) -> NDArray[np.uint64]:
        """When each slot was used last; a count that cannot be (a flipped bit) is the oldest of all."""
        last_use = self._last_use[:usable]
        last_use[last_use >= _IMPLAUSIBLE_CLOCK] = 0
        # Steps of the clock get lost between processes, or by a flipped bit: it never runs behind what it has given
        # out.
        self._clock[0] = max(self.tick(0), int(last_use.max(initial=0)))
        return last_use

    def _restarted_clock(self) -> int:
        """Where the clock goes on that had stood too high to be true (a flipped bit): what it gives out has to lie
        above all that it gave out before, and below what counts as damaged."""
        plausible = self._last_use[self._last_use < _IMPLAUSIBLE_CLOCK]
        newest = int(plausible.max(initial=0))
        if newest < _IMPLAUSIBLE_CLOCK // 2:
            return newest
        self._last_use[:] = 0  # no room is left above: all pages count as equally old
        return 0

    def _claim(self, page: int, key: NDArray[np.uint64], slots: list[int]) -> Claim:
        slot, second = slots[0], slots[1] if len(slots) > 1 else NO_SLOT
        record = self._records[slot]
        record["generation"] += 1
        record["second"], record["digest"] = second, 0
        record["writer_ticks"], record["writer_pid"] = own_start_ticks(), os.getpid()
        self._keys[slot] = key
        self._states[slot] = WRITING
        if second != NO_SLOT:
            self._states[second] = CONTINUED
        self._point_to(slot, key)
        return Claim(page=page, slot=slot, second=second, generation=int(record["generation"]))

    def _point_to(self, slot: int, key: NDArray[np.uint64]) -> bool:
        """Enter the slot in the index; in a full bucket the page used longest ago is forgotten."""
        bucket = int(key[0] & self._mask)
        ways = self._index[bucket]
        stale = [way for way in range(WAYS) if not self._belongs(int(ways[way]), bucket, slot)]
        if not stale:
            ready = [way for way in range(WAYS) if self._states[ways[way]] == READY]
            if not ready:
                return False  # eight writers at once: this page cannot be found, and gives way as the oldest
            stale = [min(ready, key=lambda way: int(self._last_use[ways[way]]))]
            self._release(int(ways[stale[0]]))
        ways[stale[0]] = slot
        return True

    def _belongs(self, slot: int, bucket: int, newcomer: int) -> bool:
        """Whether a way of the bucket points to a page that is looked for there."""
        if not 0 <= slot < self.num_slots or slot == newcomer or self._states[slot] not in (READY, WRITING):
            return False
        return int(self._keys[slot, 0] & self._mask) == bucket

    def _release(self, slot: int) -> None:
        second = self._second_of(slot, self._records[slot])
        if second != NO_SLOT:
            self._states[second] = FREE
        self._states[slot] = FREE

    def _second_of(self, slot: int, record: np.void) -> int:
        """The other half of a page; what is no other half by its state is left alone."""
        second = int(record["second"])
        is_half = 0 <= second < self.num_slots and second != slot and self._states[second] == CONTINUED
        return second if is_half else NO_SLOT

    def _reclaim(self, usable: int) -> None:
        """Free what processes left that died: their claims, and second halves that nobody names; and what has a state
        that there is not (a flipped bit), which nobody would ever read, write or give up."""
        states = self._states[:usable]
        states[states > CONTINUED] = FREE
        self._release_of_the_dead(np.flatnonzero(self._states[:usable] == WRITING))
        halves = np.flatnonzero(self._states == CONTINUED)
        if len(halves):
            owners = np.isin(self._states, (READY, WRITING))
            orphans = np.setdiff1d(halves, self._records["second"][owners])
            self._states[orphans] = FREE

    def _release_of_the_dead(self, slots: Slots) -> None:
        alive: dict[tuple[int, int], bool] = {}
        for slot in slots.tolist():
            record = self._records[slot]
            writer = int(record["writer_pid"]), int(record["writer_ticks"])
            if writer not in alive:
                alive[writer] = is_alive(*writer)
            if not alive[writer]:
                self._release(slot)

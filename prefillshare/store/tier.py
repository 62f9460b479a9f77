"""One tier of a store: a table, the slots that it speaks of, and the check of every page that is read."""

import errno
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import xxhash
from numpy.typing import NDArray

from prefillshare.store.base import Bytes, Pages
from prefillshare.store.codec import PLAIN, Decoders
from prefillshare.store.codec.choice import Encoding
from prefillshare.store.counts import Speed
from prefillshare.store.layout import NO_SLOT, RECORD
from prefillshare.store.opening import OpenTable
from prefillshare.store.table import Claim, Keys, Slots, Victim
from prefillshare.store.workers import Workers

_Key = NDArray[np.uint64]


@dataclass(frozen=True, slots=True, kw_only=True)
class Payload:
    """A page as it is kept."""

    key: _Key
    digest: int
    codec: int
    data: Bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class Admission:
    """What became of pages that were offered to a tier."""

    num_written: int
    num_known: int
    num_evicted: int
    left: list[Payload]
    """Pages for which there was no room that is older."""


def page_digest(key: _Key, page: Bytes) -> int:
    """The checksum of a page under its key: the page of another key does not fit, whole as it may be."""
    return xxhash.xxh3_64_intdigest(page.data, seed=int(key[1]))


_LACKS = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.EAGAIN, errno.EINTR})
"""What says something of this process or machine, and nothing of the page."""


class CannotReadNow(OSError):
    """The page may be whole, and this process has not got what it takes to read it."""


class PageReader:
    """Takes pages out of slots, and believes none that its digest does not fit."""

    def __init__(self, pages: Pages, decoders: Decoders) -> None:
        self._pages = pages
        self._decoders = decoders
        self.speed = Speed()
        """Of the medium alone, in bytes as they are kept."""
        self.failure: OSError | None = None
        """The latest error of the system, until somebody takes it."""

    def read(self, key: _Key, slot: int, record: np.void, into: Bytes) -> Payload | None:
        """Fill `into` with the page of `key` and return it as it is kept; None when it is not there in one piece.

        The payload of a page that is kept as it is lies in `into`; another one is the medium's until the next read.
        Raises: CannotReadNow.
        """
        try:
            stored = self._unpack(slot, record, into)
        except (OSError, IndexError, ValueError) as error:
            self._note(error)
            return None
        if page_digest(key, into) != int(record["digest"]):
            return None
        return Payload(key=key, digest=int(record["digest"]), codec=int(record["codec"]), data=stored)

    def _note(self, error: Exception) -> None:
        if isinstance(error, OSError):
            self.failure = error
            if error.errno in _LACKS:
                raise CannotReadNow(error.errno, error.strerror) from error

    def _unpack(self, slot: int, record: np.void, into: Bytes) -> Bytes:
        number, length = int(record["codec"]), int(record["length"])
        if number == PLAIN:
            if length != len(into):
                raise ValueError(f"the record speaks of {length} bytes")
            with self.speed.measured(length):
                self._pages.load(_slots_of(slot, record), into)
            return into
        decoder = self._decoders.get(number)
        with self.speed.measured(length):
            stored = self._pages.view(slot, length)
        decoder.decode(stored, into)
        return stored


class Tier:
    """Pages of one medium."""

    def __init__(
        self, opened: OpenTable, pages: Pages, encoding: Encoding, decoders: Decoders, workers: Workers
    ) -> None:
        self._opened = opened
        self.table = opened.table
        self.pages = pages
        self.encoding = encoding
        self._page_bytes = decoders.page_bytes
        self._reader = PageReader(pages, decoders)
        self._write_speed = Speed()
        self._write_failure: OSError | None = None
        self._workers = workers

    def check_file(self) -> None:
        """Look at the table's file before the table: reading what is mapped behind the end of a file ends the process.

        Raises: OSError.
        """
        self._opened.check_length()

    def find_loss(self) -> str | None:
        """What happened to the files, if others would not find them any more."""
        return self._opened.find_loss() or self.pages.find_loss()

    def take_failure(self) -> OSError | None:
        """What the system refused since this was asked last."""
        failure = self._write_failure or self._reader.failure
        self._write_failure = self._reader.failure = None
        return failure

    def find(self, keys: Keys) -> Slots:
        """The slot of each key's page, or NO_SLOT; nothing is there in a file that lost its end."""
        usable = self.pages.num_usable()
        if not len(keys) or usable == 0:
            return np.full(len(keys), NO_SLOT)
        slots = self.table.find(keys)
        return np.where(slots < usable, slots, NO_SLOT)

    def read(self, key: _Key, slot: int, into: Bytes) -> Payload | None:
        """`PageReader.read` of what the table says now."""
        return self._reader.read(key, slot, self.table.snapshot(np.array([slot]))[0], into)

    def read_all(self, wanted: Sequence[tuple[_Key, int, Bytes]]) -> list[Payload | None]:
        """`read` for many pages, by all threads."""
        return self._workers.map(lambda page: self.read(*page), wanted)

    def pack_all(self, pages: Sequence[tuple[_Key, Bytes]]) -> list[Payload]:
        """Pages as they are to be kept."""
        self._decide()
        return self._workers.map(lambda page: self._pack(*page), pages)

    def as_kept_here(self, payload: Payload, page: Bytes) -> Payload:
        """A page out of a slower tier as it is to be kept in this one."""
        if payload.codec == PLAIN or self.encoding.verdict.is_encoded:
            return payload
        return Payload(key=payload.key, digest=payload.digest, codec=PLAIN, data=page)

    def drop_damaged(self, key: _Key, slot: int) -> bool:
        """Forget a page that could not be read; false when it only gave way to another one meanwhile.

        Raises: TimeoutError.
        """
        record = self.table.snapshot(np.array([slot]))[0]
        return record["key"].tobytes() == key.tobytes() and self.table.drop(slot, record)

    def admit(
        self,
        payloads: Sequence[Payload],
        ticks: Sequence[int],
        *,
        older_than: int,
        demote: Callable[[list[Payload]], None] | None,
    ) -> Admission:
        """Write what is not there yet, in place of pages that were used longest ago; those go to `demote` first.

        Raises: TimeoutError when the table cannot be had; nothing is written then.
        """
        if self.encoding.is_measured and self._decide():
            payloads = self._workers.map(self._encode, payloads)
        keys = np.stack([payload.key for payload in payloads])
        needs = [-(-len(payload.data) // self.pages.slot_bytes) for payload in payloads]
        reservation = self.table.reserve(
            keys, needs, older_than=older_than, usable=self.pages.num_usable(), grow=self.pages.grow
        )
        written: set[int] = set()
        try:
            if demote is not None and reservation.victims:
                demote(self._rescue(reservation.victims, reservation.claims))
            done = self._workers.map(lambda claim: self._write(claim, payloads, ticks), reservation.claims)
            written = {claim.slot for claim, is_written in zip(reservation.claims, done, strict=True) if is_written}
        finally:  # a claim that is neither written nor given back would be this process's until it ends
            self.table.abandon([claim for claim in reservation.claims if claim.slot not in written])
        claimed = {claim.page for claim in reservation.claims}
        return Admission(
            num_written=len(written),
            num_known=len(payloads) - len(reservation.wanted),
            num_evicted=len(reservation.victims),
            left=[payloads[page] for page in reservation.wanted if page not in claimed],
        )

    def payload_of(self, slot: int, record: np.void) -> Payload | None:
        """A page as it is kept, unchecked: whoever reads it later checks it; None when it cannot be had."""
        data = np.empty(int(record["length"]) if record["length"] <= 2 * self.pages.slot_bytes else 0, dtype=np.uint8)
        try:
            self.pages.load(_slots_of(slot, record), data)
        except (OSError, IndexError, ValueError):
            return None
        key = np.frombuffer(record["key"].tobytes(), dtype="<u8")
        return Payload(key=key, digest=int(record["digest"]), codec=int(record["codec"]), data=data)

    def _pack(self, key: _Key, page: Bytes) -> Payload:
        plain = Payload(key=key, digest=page_digest(key, page), codec=PLAIN, data=page)
        return self._encode(plain) if self.encoding.verdict.is_encoded else plain

    def _decide(self) -> bool:
        # A page is written once and hoped to be read: both ways count.
        return self.encoding.decide((self._write_speed.bytes_per_s, self._reader.speed.bytes_per_s))

    def _encode(self, payload: Payload) -> Payload:
        codec, is_plain = self.encoding.codec, payload.codec == PLAIN and len(payload.data) == self._page_bytes
        if codec is None or not is_plain or (data := codec.encode(payload.data)) is None:
            return payload
        return Payload(key=payload.key, digest=payload.digest, codec=codec.number, data=data)

    def _write(self, claim: Claim, payloads: Sequence[Payload], ticks: Sequence[int]) -> bool:
        payload, tick = payloads[claim.page], ticks[claim.page]
        record: np.void = np.zeros(1, dtype=RECORD)[0]
        record["key"], record["digest"], record["codec"] = payload.key.tobytes(), payload.digest, payload.codec
        record["length"], record["second"], record["last_use"] = len(payload.data), claim.second, tick
        slots = [claim.slot] if claim.second == NO_SLOT else [claim.slot, claim.second]
        try:
            with self._write_speed.measured(len(payload.data)):
                self.pages.save(slots, payload.data, record)
        except OSError as error:
            self._write_failure = error
            return False
        except (IndexError, ValueError):
            return False
        self.table.publish(claim, digest=payload.digest, length=len(payload.data), codec=payload.codec, last_use=tick)
        return True

    def _rescue(self, victims: Sequence[Victim], claims: Sequence[Claim]) -> list[Payload]:
        """The bytes of pages that lost their slots to this writer: nobody else writes to slots that it has claimed."""
        owned = {slot for claim in claims for slot in (claim.slot, claim.second)}
        rescued = [
            self.payload_of(victim.slot, victim.record)
            for victim in victims
            if owned.issuperset(_slots_of(victim.slot, victim.record))
        ]
        return [payload for payload in rescued if payload is not None]


def _slots_of(slot: int, record: np.void) -> list[int]:
    second = int(record["second"])
    return [slot] if second == NO_SLOT else [slot, second]

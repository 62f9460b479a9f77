"""What goes wrong around a store: whatever it is, a read gives the right page or none, and the store goes on."""

import os
import random
import resource
import signal
import threading
import time
from pathlib import Path

import numpy as np
import pytest

from prefillshare.errors import StoreError
from prefillshare.store import KvStore, StoreSettings
from prefillshare.store.layout import CLOCK_OFFSET, CONTINUED, FREE, READY, RECORD_BYTES, WRITING
from tests.store.children import child, run_in_child, wait_for
from tests.store.stores import PAGE_BYTES, chain, identity, page, pages, read, settings

NUM_KILLS = 20


@pytest.fixture
def both(tmp_path: Path) -> StoreSettings:
    """2 MB in memory, 4 MB on disk."""
    (tmp_path / "memory").mkdir()
    (tmp_path / "disk").mkdir()
    return settings(tmp_path / "memory", directory=tmp_path / "disk", disk_bytes=4 << 20)


def _file(where: StoreSettings) -> Path:
    (file,) = where.memory_directory.glob("*/memory-*/*.store")
    return file


def _write_for_ever(where: StoreSettings, seed: int) -> None:
    store = KvStore.attach(where, identity())
    chooser = random.Random(seed)
    while True:
        keys = chain(chooser.randrange(1, 200), of=chooser.randrange(8))
        store.write(keys, pages(keys))
        store.read(keys, [np.empty(PAGE_BYTES, dtype=np.uint8) for _ in keys])


def test_a_writer_killed_at_any_moment_leaves_right_pages_or_none(both: StoreSettings) -> None:
    chooser = random.Random(1)
    for number in range(NUM_KILLS):
        with child(lambda number=number: _write_for_ever(both, number)) as pid:
            time.sleep(chooser.uniform(0.005, 0.12))
            os.kill(pid, signal.SIGKILL)
        store = KvStore.attach(both, identity())
        for of in range(8):
            read(store, chain(200, of=of))
        assert store.stats().failures == 0
        store.close()
    store = KvStore.attach(both, identity())
    # Nothing is lost for ever: what the dead had claimed can all be written to again.
    room = store.stats().tiers[0].capacity_bytes // PAGE_BYTES
    for of in range(20, 24):
        keys = chain(room // 2, of=of)
        assert store.write(keys, pages(keys)) == len(keys)
    assert store.stats().tiers[0].num_pages >= room - 1


def test_what_a_dead_writer_had_claimed_is_free_again(tmp_path: Path) -> None:
    where = settings(tmp_path)
    store = KvStore.attach(where, identity())
    tier = store._tiers[0]
    room = tier.table.num_slots
    keys = chain(room)

    def claim_all() -> None:
        other = KvStore.attach(where, identity())
        words = np.frombuffer(b"".join(keys), dtype="<u8").reshape(-1, 4)
        table = other._tiers[0].table
        claims = table.reserve(words, [1] * room, older_than=1, usable=room, grow=lambda: room).claims
        assert len(claims) > room - 3

    run_in_child(claim_all)
    assert store.count_present(keys) == 0
    assert store.write(keys, pages(keys)) > room - 3
    assert read(store, keys) > room - 3


def test_second_halves_that_no_page_names_are_free_again(tmp_path: Path) -> None:
    store = KvStore.attach(settings(tmp_path), identity())
    table = store._tiers[0].table
    table._states[3:300] = CONTINUED  # as if a writer had died between two halves, many times
    keys = chain(table.num_slots)
    assert store.write(keys, pages(keys)) > table.num_slots - 3


@pytest.mark.parametrize("num_damaged", [1, 300])
def test_slots_whose_state_was_damaged_are_free_again(tmp_path: Path, num_damaged: int) -> None:
    store = KvStore.attach(settings(tmp_path), identity())
    table = store._tiers[0].table
    keys = chain(table.num_slots)
    store.write(keys, pages(keys))
    table._states[:num_damaged] |= 0x40
    # Pages that were used later than any other give nothing up, so that only what was damaged has room.
    assert store.write(keys, pages(keys)) == len(keys)
    assert set(np.unique(table._states)) == {READY}
    assert read(store, keys) == len(keys)


def test_a_page_that_a_living_writer_writes_is_not_written_twice(tmp_path: Path) -> None:
    store = KvStore.attach(settings(tmp_path), identity())
    keys = chain(4)
    words = np.frombuffer(b"".join(keys), dtype="<u8").reshape(-1, 4)
    table = store._tiers[0].table
    claims = table.reserve(words, [1] * 4, older_than=1, usable=10, grow=lambda: 10).claims
    assert store.write(keys, pages(keys)) == 4
    assert store.stats().written_pages == 0
    assert store.count_present(keys) == 0
    table.abandon(claims)
    assert store.write(keys, pages(keys)) == 4
    assert store.stats().written_pages == 4


@pytest.fixture
def patient_with_locks(monkeypatch: pytest.MonkeyPatch) -> None:
    """On a busy machine, a process may stand still for longer than a write waits for it."""
    monkeypatch.setattr("prefillshare.store.table.LOCK_TIMEOUT_S", 120.0)


@pytest.mark.usefixtures("patient_with_locks")
def test_processes_that_write_the_same_pages_keep_each_once(tmp_path: Path) -> None:
    where = settings(tmp_path)
    keys = chain(300)
    begin = time.monotonic() + 0.3

    def write() -> None:
        store = KvStore.attach(where, identity())
        time.sleep(max(0.0, begin - time.monotonic()))
        for start in range(0, 300, 10):
            part = keys[start : start + 10]
            store.write(part, pages(part), prefix=keys[:start])
        assert store.stats().failures == 0

    with child(write) as first, child(write) as second:
        write()
        for pid in (first, second):
            wait_for(pid)
    store = KvStore.attach(where, identity())
    assert read(store, keys) == 300
    assert store.stats().tiers[0].num_pages == 300


def test_a_damaged_page_is_dropped_with_its_first_read_and_written_anew(tmp_path: Path) -> None:
    memory = settings(tmp_path)
    store = KvStore.attach(memory, identity())
    keys = chain(100)
    assert store.write(keys, pages(keys)) == 100
    with _file(memory).open("r+b") as opened:
        content = os.pread(opened.fileno(), _file(memory).stat().st_size, 0)
        for key in keys:
            place = content.index(page(key).tobytes()[:64])
            os.pwrite(opened.fileno(), bytes([content[place] ^ 1]), place)
    for key in keys:
        # Memory that numpy takes again for small arrays, such as copies of records.
        [np.full(RECORD_BYTES, 0xAA, dtype=np.uint8) for _ in range(50)]
        assert read(store, [key]) == 0
    assert store.stats().damaged_pages == 100
    assert store.count_present(keys) == 0
    store.write(keys, pages(keys))
    assert read(store, keys) == 100


@pytest.mark.parametrize("seed", range(8))
def test_flipped_bits_anywhere_cost_pages_and_no_more(both: StoreSettings, seed: int) -> None:
    store = KvStore.attach(both, identity())
    keys = chain(800)
    for start in range(0, 800, 200):
        store.write(keys[start : start + 200], pages(keys[start : start + 200]))
    store.spill()
    chooser = random.Random(seed)
    assert both.directory is not None
    files = [_file(both), *both.directory.glob("*/*.pages"), *both.memory_directory.glob("*/disk-*/*.store")]
    assert len(files) == 3
    for file in files:
        with file.open("r+b") as opened:
            for _ in range(300):
                place = chooser.randrange(file.stat().st_size if chooser.random() < 0.5 else 60_000)
                byte = os.pread(opened.fileno(), 1, place)[0]
                os.pwrite(opened.fileno(), bytes([byte ^ (1 << chooser.randrange(8))]), place)
    for key in keys:
        read(store, [key])
    store.close()
    later = KvStore.attach(both, identity())
    for key in keys:
        read(later, [key])
    for _ in range(2):  # the first finds what else is damaged
        for start in range(0, 400, 100):
            later.write(keys[start : start + 100], pages(keys[start : start + 100]), prefix=keys[:start])
            read(later, keys[:start])
    assert read(later, keys[:400]) > 350


def test_a_damaged_page_is_dropped_and_written_again(tmp_path: Path) -> None:
    store = KvStore.attach(settings(tmp_path), identity())
    keys = chain(3)
    store.write(keys, pages(keys))
    data = _file(settings(tmp_path)).read_bytes()
    with _file(settings(tmp_path)).open("r+b") as file:
        place = data.index(page(keys[1]).tobytes()) + 1234
        os.pwrite(file.fileno(), bytes([data[place] ^ 4]), place)
    assert read(store, keys) == 1
    assert store.stats().damaged_pages == 1
    assert store.count_present(keys) == 1
    assert store.write(keys, pages(keys)) == 3
    assert read(store, keys) == 3


def test_what_is_written_over_a_damaged_page_is_known_and_still_not_served(tmp_path: Path) -> None:
    """A write does not read what is there under its key: the next read does, and the write after that is whole."""
    store = KvStore.attach(settings(tmp_path), identity())
    keys = chain(1)
    store.write(keys, pages(keys))
    store._tiers[0].pages.view(0, PAGE_BYTES)[0] ^= 1
    assert store.write(keys, pages(keys)) == 1
    assert store.stats().written_pages == 1
    assert read(store, keys) == 0
    assert store.write(keys, pages(keys)) == 1
    assert read(store, keys) == 1


def test_all_damaged_pages_of_a_chain_are_written_again_at_once(tmp_path: Path) -> None:
    """However many batches of reads lie between them."""
    memory = settings(tmp_path, memory_bytes=8 << 20)
    store = KvStore.attach(memory, identity())
    keys = chain(1000)
    assert store.write(keys, pages(keys)) == 1000
    data = _file(memory).read_bytes()
    with _file(memory).open("r+b") as file:
        for number in (100, 101, 350, 700, 999):
            place = data.index(page(keys[number]).tobytes()[:64]) + 7
            os.pwrite(file.fileno(), bytes([data[place] ^ 1]), place)
    assert read(store, keys) == 100
    assert store.stats().damaged_pages == 5
    assert store.write(keys, pages(keys)) == 1000
    assert read(store, keys) == 1000


def test_a_page_under_another_key_does_not_fit(tmp_path: Path) -> None:
    store = KvStore.attach(settings(tmp_path), identity())
    keys = chain(2)
    store.write(keys, pages(keys))
    table = store._tiers[0].table
    slots = table.find(np.frombuffer(b"".join(keys), dtype="<u8").reshape(-1, 4))
    records = table._records
    # Both whole, under each other's key: as if the table had been exchanged.
    records["digest"][slots] = records["digest"][slots[::-1]]
    records["second"][slots] = records["second"][slots[::-1]]
    mapped = store._tiers[0].pages
    first, second = (mapped.view(int(slot), PAGE_BYTES) for slot in slots)
    swap = first.copy()
    first[:] = second
    second[:] = swap
    assert read(store, keys) == 0


def test_a_file_that_is_cut_while_it_is_used_ends_nothing(tmp_path: Path) -> None:
    store = KvStore.attach(settings(tmp_path), identity())
    keys = chain(20)
    store.write(keys, pages(keys))
    file = _file(settings(tmp_path))
    os.truncate(file, file.stat().st_size - 100)
    assert read(store, keys) == 0
    os.truncate(file, 100)
    assert read(store, keys) == 0
    assert store.write(keys, pages(keys)) == 0
    assert store.stats().failures > 0
    later = KvStore.attach(settings(tmp_path), identity())
    assert later.write(keys, pages(keys)) == 20
    assert read(later, keys) == 20


def test_where_memory_ends_the_store_stays_as_large_as_it_is(tmp_path: Path) -> None:
    large = identity(page_bytes=1 << 20)
    keys = chain(150)
    content = [page(key, 1 << 20) for key in keys[:4]]

    def fill() -> None:
        store = KvStore.attach(settings(tmp_path, memory_bytes=200 << 20), large)
        resource.setrlimit(resource.RLIMIT_FSIZE, (100 << 20, 100 << 20))
        kept = store.write(keys, [content[number % 4] for number in range(150)])
        assert 60 <= kept <= 64
        other = chain(10, of=1)
        assert store.write(other, content * 2 + content[:2]) == 10
        assert store.count_present(other) == 10
        assert store.stats().failures == 0

    run_in_child(fill)


def test_a_file_system_without_room_is_refused_with_the_fix(tmp_path: Path) -> None:
    def attach() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (50_000, 50_000))
        with pytest.raises(StoreError, match=r"make room|no room"):
            KvStore.attach(settings(tmp_path), identity())

    run_in_child(attach)
    assert not list(tmp_path.glob("*/*/*.store*"))


def test_a_clock_that_was_set_back_goes_on_from_what_was_used_last(tmp_path: Path) -> None:
    store = KvStore.attach(settings(tmp_path), identity())
    room = store._tiers[0].table.num_slots
    keys = chain(room)
    store.write(keys, pages(keys))
    with _file(settings(tmp_path)).open("r+b") as file:
        os.pwrite(file.fileno(), bytes(8), CLOCK_OFFSET)
    for of in range(1, 4):
        other = chain(room // 2, of=of)
        store.write(other, pages(other))
        read(store, other)
    last = chain(room // 2, of=3)
    assert read(store, last) == len(last)
    assert int(store._tiers[0].table._clock[0]) > room


@pytest.mark.parametrize("clock", [2**64 - 1, 2**63, 2**62 + 3, 2**62 - 2], ids=hex)
@pytest.mark.parametrize("place", ["clock", "last use"])
def test_a_clock_that_was_set_far_ahead_is_set_right(tmp_path: Path, clock: int, place: str) -> None:
    """Past all that it can count to, too, or every page that comes would count as the oldest from then on."""
    store = KvStore.attach(settings(tmp_path), identity())
    table = store._tiers[0].table
    keys = chain(table.num_slots)
    store.write(keys, pages(keys))
    offset = CLOCK_OFFSET if place == "clock" else store._tiers[0]._opened.layout.last_use
    with _file(settings(tmp_path)).open("r+b") as file:
        os.pwrite(file.fileno(), clock.to_bytes(8, "little"), offset)
    for of in range(1, 4):
        other = chain(table.num_slots // 2, of=of)
        assert store.count_present(other) == 0
        assert store.write(other, pages(other)) == len(other)
        assert read(store, other) == len(other)
    assert store.stats().failures == 0


@pytest.mark.usefixtures("patient_with_locks")
def test_a_forked_child_goes_on_by_itself(both: StoreSettings) -> None:
    store = KvStore.attach(StoreSettings(**{**_fields(both), "threads": 3}), identity())
    keys = chain(120)
    assert store.write(keys[:40], pages(keys[:40])) == 40
    table = store._tiers[0].table
    held, go_on = threading.Event(), threading.Event()

    def hold() -> None:
        with table._lock.held(5.0):
            held.set()
            go_on.wait(120.0)

    def work() -> None:
        assert read(store, keys[:40]) == 40
        assert store.write(keys[40:80], pages(keys[40:80]), prefix=keys[:40]) == 40
        assert read(store, keys[:80]) == 80

    # A thread of the parent has the lock when the child is made: the child must not think that it has it as well.
    holder = threading.Thread(target=hold)
    holder.start()
    assert held.wait(120.0)
    with child(work) as pid:
        go_on.set()
        holder.join()
        wait_for(pid)
    assert read(store, keys[:80]) == 80
    assert store.write(keys[80:], pages(keys[80:]), prefix=keys[:80]) == 40
    assert read(store, keys) == 120


def test_a_process_that_stands_still_with_the_lock_holds_up_nobody_s_reads(tmp_path: Path) -> None:
    where = settings(tmp_path)
    store = KvStore.attach(where, identity())
    keys = chain(10)
    store.write(keys[:5], pages(keys[:5]))
    reader, writer = os.pipe()

    def stand_still() -> None:
        other = KvStore.attach(where, identity())
        with other._tiers[0].table._lock.held(5.0):
            os.write(writer, b"!")
            time.sleep(60.0)

    with child(stand_still):
        assert os.read(reader, 1) == b"!"
        assert read(store, keys) == 5
        assert store.write(keys, pages(keys)) == 0  # after a second, and told
        assert store.stats().failures == 1
    assert store.write(keys, pages(keys)) == 10


def test_what_the_states_say_adds_up_after_everything(both: StoreSettings) -> None:
    with child(lambda: _write_for_ever(both, 1)), child(lambda: _write_for_ever(both, 2)):
        time.sleep(0.5)
    store = KvStore.attach(both, identity())
    for of in range(30, 34):
        keys = chain(400, of=of)
        store.write(keys, pages(keys))
    for tier in store._tiers:
        states = tier.table._states
        assert set(np.unique(states)) <= {FREE, WRITING, READY, CONTINUED}
        ready = np.flatnonzero(states == READY)
        found = tier.table.find(np.ascontiguousarray(tier.table._keys[ready]))
        assert (found == ready).mean() > 0.99


def _fields(where: StoreSettings) -> dict[str, object]:
    return {name: getattr(where, name) for name in where.__dataclass_fields__}

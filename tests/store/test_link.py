"""An engine's link to its store: what happens to files while they are in use costs pages, and the store comes back."""

import contextlib
import errno
import gc
import itertools
import os
import resource
import shutil
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from prefillshare.errors import StoreError
from prefillshare.store import KvStore, StoreLink, StoreOwner, StoreSettings
from prefillshare.store.folders import disk_folder, memory_folder, stores_folder
from prefillshare.store.memory import MappedPages
from tests.store.stores import PAGE_BYTES, chain, identity, pages, read, settings
from tests.support.clock import Clock
from tests.support.waiting import wait_until

KEYS = chain(8)
LONGEST_S = 120.0


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def both(tmp_path: Path) -> StoreSettings:
    """A memory tier and a disk tier."""
    (tmp_path / "memory").mkdir()
    (tmp_path / "disk").mkdir()
    return settings(tmp_path / "memory", directory=tmp_path / "disk", disk_bytes=4 << 20)


@contextlib.contextmanager
def linked(where: StoreSettings, clock: Clock) -> Iterator[StoreLink]:
    with contextlib.closing(StoreLink(where, identity(), clock)) as link:
        yield link


def come_back(link: StoreLink, clock: Clock) -> None:
    """Let time pass until the store is open again."""

    def is_open() -> bool:
        clock.now += 2.0
        return link.is_open

    wait_until(is_open)


def remove_all(where: StoreSettings) -> None:
    shutil.rmtree(stores_folder(where.memory_directory))


def remove_disk(where: StoreSettings) -> None:
    assert where.directory is not None
    shutil.rmtree(disk_folder(where.directory))


def cut_memory(where: StoreSettings) -> None:
    for path in memory_folder(where.memory_directory, where.name).glob("*.store"):
        os.truncate(path, 0)


def cut_disk(where: StoreSettings) -> None:
    assert where.directory is not None
    for path in disk_folder(where.directory).glob("*.pages"):
        os.truncate(path, 0)


@pytest.mark.parametrize("harm", [remove_all, remove_disk, cut_memory, cut_disk])
def test_files_that_go_while_in_use_are_made_again_and_told_once(
    both: StoreSettings, clock: Clock, caplog: pytest.LogCaptureFixture, harm: Callable[[StoreSettings], None]
) -> None:
    with linked(both, clock) as link:
        assert link.write(KEYS, pages(KEYS)) == len(KEYS)
        harm(both)
        clock.now += 2.0
        assert link.count_present(KEYS) == 0
        told = link.stats()
        assert told.why_off is not None
        assert "while it was in use" in told.why_off
        assert told.failures > 0
        assert (told.written_pages, told.tiers) == (len(KEYS), ())
        assert link.write(KEYS, pages(KEYS)) == 0
        assert sum("goes on without the store" in record.message for record in caplog.records) == 1

        come_back(link, clock)
        assert link.write(KEYS, pages(KEYS)) == len(KEYS)
        assert read(link, KEYS) == len(KEYS)
        assert link.stats().why_off is None
        # Another engine finds what this one has written.
        with contextlib.closing(KvStore.attach(both, identity())) as other:
            assert read(other, KEYS) == len(KEYS)


def test_what_cannot_be_opened_is_taken_up_when_it_can(
    tmp_path: Path, clock: Clock, caplog: pytest.LogCaptureFixture
) -> None:
    where = settings(tmp_path / "later")
    with linked(where, clock) as link:
        for _ in range(5):
            clock.now += 100.0
            assert link.write(KEYS, pages(KEYS)) == 0
            wait_until(lambda: not link._looking.locked())
        assert "name a file system in memory" in str(link.stats().why_off)
        assert len(caplog.records) == 1
        where.memory_directory.mkdir()
        come_back(link, clock)
        assert link.write(KEYS, pages(KEYS)) == len(KEYS)
        assert link.stats().why_off is None


def test_a_reason_whose_numbers_change_is_told_once(
    both: StoreSettings, clock: Clock, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    free = iter(range(1_000, 100_000, 7))
    monkeypatch.setattr("prefillshare.store.sizes.free_bytes", lambda folder: next(free))
    with linked(both, clock) as link:
        reasons = set()
        for _ in range(5):
            clock.now += 100.0
            assert link.write(KEYS, pages(KEYS)) == 0
            wait_until(lambda: not link._looking.locked())
            reasons.add(link.stats().why_off)
        assert len(reasons) > 1
        assert all("has free" in str(reason) for reason in reasons)
        assert len(caplog.records) == 1


def test_what_was_to_be_forgotten_while_the_store_was_off_does_not_come_back(tmp_path: Path, clock: Clock) -> None:
    where = settings(tmp_path)
    with contextlib.closing(KvStore.attach(where, identity())) as other:
        other.write(KEYS, pages(KEYS))
        os.chmod(stores_folder(tmp_path), 0o755)
        with linked(where, clock) as link:
            assert "chmod 700" in str(link.stats().why_off)
            link.forget_all()
            os.chmod(stores_folder(tmp_path), 0o700)
            come_back(link, clock)
            assert link.count_present(KEYS) == 0
        assert other.count_present(KEYS) == 0


def test_what_could_not_be_forgotten_is_not_found_until_it_is(
    tmp_path: Path, clock: Clock, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Another process was stopped while it held the table."""
    where = settings(tmp_path)
    with contextlib.closing(KvStore.attach(where, identity())) as other, linked(where, clock) as link:
        assert other.write(KEYS, pages(KEYS)) == link.count_present(KEYS) == len(KEYS)
        monkeypatch.setattr("prefillshare.store.table.LOCK_TIMEOUT_S", 0.02)
        with other._tiers[0].table._lock.held(1.0):
            link.forget_all()
            for _ in range(3):
                assert (link.count_present(KEYS), link.write(KEYS, pages(KEYS))) == (0, 0)
                assert "to be forgotten" in str(link.stats().why_off)
                clock.now += 100.0
                link.count_present(KEYS)
                wait_until(lambda: not link._looking.locked())
        monkeypatch.undo()
        for said in ("the store cannot be used", "goes on without the store"):
            assert sum(said in record.message for record in caplog.records) == 1
        come_back(link, clock)
        assert (link.count_present(KEYS), other.count_present(KEYS)) == (0, 0)
        assert link.write(KEYS, pages(KEYS)) == other.count_present(KEYS) == len(KEYS)


def test_engines_whose_files_were_removed_meet_again(both: StoreSettings) -> None:
    clocks = Clock(), Clock()
    with linked(both, clocks[0]) as first, linked(both, clocks[1]) as second:
        first.write(KEYS, pages(KEYS))
        remove_all(both)
        for link, clock in zip((first, second), clocks, strict=True):
            clock.now += 2.0
            assert not link.is_open
            come_back(link, clock)
        first.write(KEYS, pages(KEYS))
        assert read(second, KEYS) == len(KEYS)


def test_the_first_launch_to_end_leaves_the_store_to_the_second(both: StoreSettings, clock: Clock) -> None:
    first, second = StoreOwner(both), StoreOwner(both)
    with linked(both, clock) as link:
        link.write(KEYS, pages(KEYS))
        first.end()
        clock.now += 2.0
        assert read(link, KEYS) == len(KEYS)
    # Between two engines of the second launch as well.
    with linked(both, clock) as link:
        assert read(link, KEYS) == len(KEYS)
    second.end()
    assert not memory_folder(both.memory_directory, both.name).exists()


@pytest.mark.parametrize("changed", [{"memory_bytes": 1 << 20}, {"disk_bytes": 2 << 20}])
def test_a_store_in_use_keeps_its_size_for_those_who_come_with_another(both: StoreSettings, changed: dict) -> None:
    values = {name: getattr(both, name) for name in ("memory_bytes", "directory", "disk_bytes")} | changed
    with contextlib.closing(KvStore.attach(both, identity())) as first:
        first.write(KEYS, pages(KEYS))
        with contextlib.closing(KvStore.attach(settings(both.memory_directory, **values), identity())) as second:
            assert read(second, KEYS) == len(KEYS)
        assert first.find_loss() is None


def test_a_store_in_use_is_not_changed_to_another_codec(tmp_path: Path) -> None:
    ours = identity(kv_dtype="bfloat16")
    with contextlib.closing(KvStore.attach(settings(tmp_path), ours)) as first:
        with pytest.raises(StoreError, match=r'otherwise than codec = "splitzip".*set what they have'):
            KvStore.attach(settings(tmp_path, codec="splitzip"), ours)
        assert first.find_loss() is None
    KvStore.attach(settings(tmp_path, codec="splitzip"), ours).close()


def test_close_waits_for_calls_that_are_under_way(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Descriptors of a store that is closed under a call could be another file's by the time it uses them."""
    store = KvStore.attach(settings(tmp_path), identity())
    store.write(KEYS, pages(KEYS))
    is_reading, may_read = threading.Event(), threading.Event()
    load = MappedPages.load

    def slow(self: MappedPages, *given: object) -> None:
        is_reading.set()
        assert may_read.wait(LONGEST_S)
        load(self, *given)  # type: ignore[arg-type]

    monkeypatch.setattr(MappedPages, "load", slow)
    found: list[int] = []
    reader = threading.Thread(target=lambda: found.append(read(store, KEYS)))
    reader.start()
    assert is_reading.wait(LONGEST_S)
    store.close()
    assert store.count_present(KEYS) == 0
    may_read.set()
    reader.join()
    assert found == [len(KEYS)]
    assert store.stats().tiers == ()


def test_without_file_descriptors_nothing_is_taken_for_damaged(tmp_path: Path) -> None:
    """Pages that a process cannot map are whole, and the others' to read."""
    where = settings(tmp_path)
    with contextlib.closing(KvStore.attach(where, identity())) as first:
        first.write(KEYS, pages(KEYS))
        with contextlib.closing(KvStore.attach(where, identity())) as second, no_more_descriptors():
            assert read(second, KEYS) == 0
            assert second.stats().damaged_pages == 0
            assert second.stats().failures > 0
        assert read(first, KEYS) == len(KEYS)


def test_without_file_descriptors_a_store_is_refused_with_the_fix(tmp_path: Path, clock: Clock) -> None:
    with no_more_descriptors(), linked(settings(tmp_path), clock) as link:
        assert "ulimit -n" in str(link.stats().why_off)
        assert link.write(KEYS, pages(KEYS)) == 0


@pytest.mark.parametrize("is_there", [False, True])
def test_a_store_that_cannot_be_opened_keeps_no_file_descriptor(both: StoreSettings, is_there: bool) -> None:
    """Wherever they end while it is opened: it is tried again every minute."""
    if is_there:
        KvStore.attach(both, identity()).close()
    for num_left in itertools.count():
        if not is_there:
            shutil.rmtree(both.memory_directory, ignore_errors=True)
            both.memory_directory.mkdir()
        with contextlib.suppress(StoreError), no_more_descriptors(num_left):
            KvStore.attach(both, identity()).close()
            break
        gc.collect()  # mappings, which the error's frames held
        assert open_below(both.memory_directory.parent) == [], num_left
    assert num_left > 5


def open_below(folder: Path) -> list[str]:
    """Files below `folder` that this process has open."""
    links = []
    for descriptor in os.listdir("/proc/self/fd"):
        with contextlib.suppress(FileNotFoundError):  # that of the listing itself
            links.append(os.readlink(f"/proc/self/fd/{descriptor}"))
    return [link for link in links if link.startswith(f"{folder}/")]


@contextlib.contextmanager
def no_more_descriptors(num_left: int = 0) -> Iterator[None]:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    highest = max(map(int, os.listdir("/proc/self/fd")))
    resource.setrlimit(resource.RLIMIT_NOFILE, (highest + 64, hard))
    taken: list[int] = []
    try:
        with contextlib.suppress(OSError):
            while True:
                taken.append(os.open("/dev/null", os.O_RDONLY))
        for _ in range(num_left):
            os.close(taken.pop())
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
        for descriptor in taken:
            os.close(descriptor)


def test_a_disk_that_refuses_is_told_with_its_reason(
    both: StoreSettings, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """As after it was mounted anew, read-only."""
    with contextlib.closing(KvStore.attach(both, identity())) as store:
        room = store.stats().tiers[0].capacity_bytes // PAGE_BYTES
        write = os.pwrite

        def refuse(descriptor: int, data: bytes, place: int) -> int:
            if str(both.directory) in os.readlink(f"/proc/self/fd/{descriptor}"):
                raise OSError(errno.EROFS, os.strerror(errno.EROFS))
            return write(descriptor, data, place)

        monkeypatch.setattr(os, "pwrite", refuse)
        for of in range(4):
            keys = chain(room // 2, of=of)
            assert store.write(keys, pages(keys)) == len(keys)
            assert read(store, keys) == len(keys)
        assert store.stats().failures > 0
    assert sum("Read-only file system" in record.getMessage() for record in caplog.records) == 1

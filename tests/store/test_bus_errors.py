"""Files in memory that others cut at the moment of an access: zeros in place of SIGBUS, and only there."""

import contextlib
import faulthandler
import mmap
import os
import random
import signal
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from prefillshare.errors import StoreError
from prefillshare.store import KvStore, StoreLink, StoreSettings
from prefillshare.store.bus_errors import GuardedMap, keep_handling
from prefillshare.store.memory import MappedPages
from prefillshare.store.table import Table
from tests.store.children import child, run_in_child
from tests.store.stores import chain, identity, pages, read, settings
from tests.support.waiting import wait_until

LENGTH = 64 << 10


def _file(where: StoreSettings) -> Path:
    (file,) = where.memory_directory.glob("*/memory-*/*.store")
    return file


def _memory_file() -> int:
    descriptor = os.memfd_create("tests")
    os.ftruncate(descriptor, LENGTH)
    return descriptor


def _touch_cut_memory_of_others() -> None:
    descriptor = _memory_file()
    data = np.frombuffer(mmap.mmap(descriptor, LENGTH), dtype=np.uint8)
    os.ftruncate(descriptor, 0)
    data.sum()


def _guard_and_touch() -> GuardedMap:
    descriptor = _memory_file()
    guarded = GuardedMap(descriptor, LENGTH, offset=0)
    data = np.frombuffer(guarded, dtype=np.uint8)
    data[:] = 7
    os.ftruncate(descriptor, mmap.PAGESIZE)
    assert data.sum() == 7 * mmap.PAGESIZE
    assert guarded.num_faults == LENGTH // mmap.PAGESIZE - 1
    data[LENGTH - 1] = 3
    assert data[LENGTH - 1] == 3
    return guarded


def _signal_that_ends(work: Callable[[], object]) -> int:
    with child(work) as pid:
        ended = os.waitid(os.P_PID, pid, os.WEXITED | os.WNOWAIT)
        assert ended is not None
        assert ended.si_code in (os.CLD_KILLED, os.CLD_DUMPED), "it ended by itself"
        return ended.si_status


def test_memory_that_a_file_lost_is_zero() -> None:
    run_in_child(_guard_and_touch)


def test_a_handler_that_another_library_puts_before_it_comes_after_it_again() -> None:
    def work() -> None:
        _guard_and_touch()
        faulthandler.enable(open(os.devnull, "w"))  # noqa: SIM115 - open for as long as the process lives
        keep_handling()
        _guard_and_touch()

    run_in_child(work)


@pytest.mark.parametrize("is_later", [False, True])
@pytest.mark.parametrize("fault", [_touch_cut_memory_of_others, lambda: os.kill(os.getpid(), signal.SIGBUS)])
def test_what_is_none_of_the_store_s_ends_the_process_as_before(
    fault: Callable[[], object], is_later: bool, tmp_path: Path
) -> None:
    """Through whichever handlers there are, and once each."""
    told = tmp_path / "told"

    def work() -> None:
        kept = _guard_and_touch()
        with told.open("w") as file:
            faulthandler.enable(file)
            if is_later:
                keep_handling()
            fault()
        del kept

    assert _signal_that_ends(work) == signal.SIGBUS
    assert told.read_text().count("Bus error") == 1


def test_a_range_that_was_given_back_is_guarded_no_more() -> None:
    def work() -> None:
        descriptor = _memory_file()
        guarded = GuardedMap(descriptor, LENGTH, offset=0)
        address = np.frombuffer(guarded, dtype=np.uint8).ctypes.data
        ranges, number = guarded._handler.ranges, guarded._number
        assert ranges[number, 0] <= address < ranges[number, 1]
        del guarded
        assert not ((ranges[:, 0] <= address) & (address < ranges[:, 1])).any()

    run_in_child(work)


@pytest.mark.parametrize("of", [MappedPages, Table])
def test_a_file_cut_at_the_moment_of_an_access_is_misses_and_a_new_store(
    of: type, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After the store has looked at the file's length, and before it touches pages or table."""
    where, keys, now = settings(tmp_path), chain(20), [0.0]
    name = "view" if of is MappedPages else "find"

    def work() -> None:
        link = StoreLink(where, identity(), clock=lambda: now[0])
        assert link.write(keys, pages(keys)) == 20
        usual = getattr(of, name)

        def cut_and_look(self: object, *given: object) -> object:
            found = usual(self, *given) if of is MappedPages else None
            os.truncate(_file(where), 4096)
            return usual(self, *given) if found is None else found

        with monkeypatch.context() as patched:
            patched.setattr(of, name, cut_and_look)
            assert read(link, keys) == 0  # type: ignore[arg-type]
        assert link.write(keys, pages(keys)) == 0
        now[0] += 1.5
        assert not link.is_open
        assert "was cut" in (link.stats().why_off or "")
        _reopen(link, now)
        assert link.write(keys, pages(keys)) == 20
        assert read(link, keys) == 20  # type: ignore[arg-type]

    run_in_child(work)


def test_a_file_that_is_made_longer_again_is_left_as_well(tmp_path: Path) -> None:
    """Its length is right then, and what stands in it is not: zeros, or memory that nobody else has."""
    where, keys, now = settings(tmp_path), chain(20), [0.0]

    def work() -> None:
        link = StoreLink(where, identity(), clock=lambda: now[0])
        assert link.write(keys, pages(keys)) == 20
        length = _file(where).stat().st_size
        view = link._store._tiers[0].pages.view(3, 4096)  # type: ignore[union-attr]
        os.truncate(_file(where), 0)
        assert not view.any()
        os.truncate(_file(where), length)
        assert read(link, keys) == 0  # type: ignore[arg-type]
        now[0] += 1.5
        assert not link.is_open
        _reopen(link, now)
        assert link.write(keys, pages(keys)) == 20
        assert read(link, keys) == 20  # type: ignore[arg-type]

    run_in_child(work)


def test_a_file_cut_while_it_is_opened_is_refused_with_the_reason(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    where = settings(tmp_path)
    KvStore.attach(where, identity()).close()
    usual = GuardedMap.__new__

    def cut_and_map(*given: Any, **named: Any) -> GuardedMap:
        os.truncate(_file(where), 4096)
        return usual(*given, **named)

    with monkeypatch.context() as patched:
        patched.setattr(GuardedMap, "__new__", cut_and_map)
        with pytest.raises(StoreError, match=r"cut while it was opened.*no other program"):
            KvStore.attach(where, identity())
    KvStore.attach(where, identity()).close()


def test_a_file_that_is_cut_again_and_again_costs_pages_and_no_process(tmp_path: Path) -> None:
    where = settings(tmp_path)

    def use() -> None:
        chooser, deadline, done = random.Random(1), time.monotonic() + 1.0, threading.Event()
        threading.Thread(target=_cut_for_ever, args=(where, done)).start()
        while time.monotonic() < deadline:
            with contextlib.suppress(StoreError):  # cut while it was opened
                store = KvStore.attach(where, identity())
                for _ in range(20):
                    keys = chain(chooser.randrange(1, 200), of=chooser.randrange(4))
                    store.write(keys, pages(keys))
                    read(store, keys)
                store.close()
        done.set()

    run_in_child(use)


def _cut_for_ever(where: StoreSettings, done: threading.Event) -> None:
    chooser = random.Random(2)
    while not done.wait(chooser.uniform(0.0, 0.003)):
        for file in where.memory_directory.glob("*/memory-*/*.store"):
            os.truncate(file, chooser.randrange(2 * file.stat().st_size + 1))


def _reopen(link: StoreLink, now: list[float]) -> None:
    now[0] += 100.0
    wait_until(lambda: link.is_open, pause_s=0.005)

"""The store in one process: what is written is read, what is used stays, what is wrong is refused with the fix."""

import threading
import time
from pathlib import Path

import numpy as np
import pytest

from prefillshare.errors import StoreError
from prefillshare.store import KvStore, chain_keys
from prefillshare.store.workers import Workers
from tests.store.stores import PAGE_BYTES, PAGE_TOKENS, chain, identity, pages, read, settings


def test_pages_come_back_as_they_were_written(tmp_path: Path) -> None:
    store = KvStore.attach(settings(tmp_path), identity())
    keys = chain(20)
    assert store.write(keys[:10], pages(keys[:10])) == 10
    assert store.count_present(keys) == 10
    assert read(store, keys) == 10
    assert store.write(keys, pages(keys)) == 20
    assert read(store, keys) == 20
    assert store.stats().written_pages == 20


@pytest.mark.parametrize("threads", [1, 3])
def test_another_process_s_view_finds_them_and_so_does_a_later_one(tmp_path: Path, threads: int) -> None:
    first = KvStore.attach(settings(tmp_path, threads=threads), identity())
    second = KvStore.attach(settings(tmp_path, threads=threads), identity())
    keys = chain(50)
    assert first.write(keys, pages(keys)) == 50
    assert read(second, keys) == 50
    first.close()
    second.close()
    third = KvStore.attach(settings(tmp_path), identity())
    assert read(third, keys) == 50


def test_a_chain_loses_its_tail_first(tmp_path: Path) -> None:
    store = KvStore.attach(settings(tmp_path), identity())
    room = store.stats().tiers[0].capacity_bytes // PAGE_BYTES
    old, used, new = chain(room // 2, of=1), chain(room // 2, of=2), chain(room // 2, of=3)
    store.write(old, pages(old))
    store.write(used, pages(used))
    assert store.count_present(used) == len(used)
    assert store.write(new, pages(new)) == len(new)
    assert read(store, used) == len(used)
    assert read(store, new) == len(new)
    assert store.count_present(old) == room - len(used) - len(new)
    # Half of another chain: what was used longest ago gives its tail, not its head.
    half = chain(room // 4, of=4)
    assert store.write(half, pages(half)) == len(half)
    assert 0 < store.count_present(used) < len(used)
    assert read(store, new) == len(new)


def test_of_a_chain_longer_than_the_store_the_start_is_kept(tmp_path: Path) -> None:
    store = KvStore.attach(settings(tmp_path), identity())
    room = store.stats().tiers[0].capacity_bytes // PAGE_BYTES
    keys = chain(2 * room)
    assert store.write(keys, pages(keys)) == room
    assert read(store, keys) == room
    rest = keys[room:]
    assert store.write(rest, pages(rest), prefix=keys[:room]) == 0
    assert read(store, keys) == room
    assert store.stats().refused_pages == 2 * room


def test_a_chain_written_in_parts_keeps_its_head_newest(tmp_path: Path) -> None:
    store = KvStore.attach(settings(tmp_path), identity())
    room = store.stats().tiers[0].capacity_bytes // PAGE_BYTES
    keys = chain(room)
    for start in range(0, room, 50):
        part = keys[start : start + 50]
        assert store.write(part, pages(part), prefix=keys[:start]) == len(part)
    other = chain(room // 3, of=1)
    assert store.write(other, pages(other)) == len(other)
    assert read(store, keys) == room - len(other)


def test_tenants_and_weights_never_meet(tmp_path: Path) -> None:
    tokens = np.arange(4 * PAGE_TOKENS)
    roots = {
        chain_keys(who, extra_key, tokens, PAGE_TOKENS)[0]
        for who in (
            identity(),
            identity(prefill_fingerprint="other"),
            identity(tp_rank=1),
            identity(kv_dtype="bfloat16"),
        )
        for extra_key in (None, "", "a", "b")
    }
    assert len(roots) == 16
    store = KvStore.attach(settings(tmp_path), identity())
    other = KvStore.attach(settings(tmp_path), identity(prefill_fingerprint="other"))
    keys = chain(4)
    store.write(keys, pages(keys))
    assert other.count_present(keys) == 0


def test_keys_of_a_longer_chain_go_on_from_the_shorter_one() -> None:
    tokens = list(range(100))
    whole = chain_keys(identity(), "tenant", tokens, PAGE_TOKENS)
    assert len(whole) == 6
    start = chain_keys(identity(), "tenant", tokens[:40], PAGE_TOKENS)
    assert start == whole[:2]
    assert chain_keys(identity(), "tenant", tokens[32:], PAGE_TOKENS, parent=start[-1]) == whole[2:]
    assert chain_keys(identity(), "tenant", [], PAGE_TOKENS) == []


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"memory_bytes": 4096}, "holds no page of this model: set at least"),
        ({"memory_bytes": 1 << 60}, "has free"),
        ({"memory_directory": Path("/nowhere/at/all")}, "is no folder"),
        ({"memory_directory": Path("/proc/self")}, "cannot be made"),
    ],
)
def test_what_cannot_be_is_refused_with_the_fix(tmp_path: Path, changed: dict[str, object], said: str) -> None:
    with pytest.raises(StoreError, match=said):
        KvStore.attach(settings(tmp_path, **changed), identity())


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"threads": 0}, "set 1 to 64"),
        ({"codec": "zip"}, "splitzip"),
        ({"memory_bytes": -1}, "above 0"),
        ({"name": ""}, "name"),
    ],
)
def test_settings_say_what_they_take(tmp_path: Path, changed: dict[str, object], said: str) -> None:
    with pytest.raises(StoreError, match=said):
        settings(tmp_path, **changed)


def test_a_folder_that_others_can_read_is_refused(tmp_path: Path) -> None:
    KvStore.attach(settings(tmp_path), identity()).close()
    next(tmp_path.iterdir()).chmod(0o777)
    with pytest.raises(StoreError, match="chmod 700"):
        KvStore.attach(settings(tmp_path), identity())


def test_a_closed_store_has_nothing(tmp_path: Path) -> None:
    store = KvStore.attach(settings(tmp_path), identity())
    keys = chain(2)
    store.write(keys, pages(keys))
    store.close()
    assert store.count_present(keys) == 0
    assert read(store, keys) == 0
    assert store.write(keys, pages(keys)) == 0


def test_threads_end_their_part_before_a_failure_reaches_the_caller() -> None:
    """They fill buffers that belong to somebody else as soon as the call has returned."""
    workers, filled, has_failed = Workers(2), [False], threading.Event()

    def fill(item: int) -> None:
        if item == 1:
            has_failed.set()
            raise OSError("no")
        assert has_failed.wait(120)
        time.sleep(0.05)
        filled[0] = True

    with pytest.raises(OSError, match="no"):
        workers.map(fill, [0, 1])
    assert filled == [True]
    workers.close()


def test_where_no_thread_is_to_be_had_the_caller_does_all_and_nothing_is_done_later(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A pool keeps what it could not begin: a later thread would fill buffers that are somebody else's by then."""
    workers, done = Workers(3), []

    def do(item: int) -> int:
        done.append(item)
        return -item

    with monkeypatch.context() as crowded:
        crowded.setattr(threading.Thread, "start", _refuse_thread)
        assert workers.map(do, [1, 2, 3]) == [-1, -2, -3]
    was_done = sorted(done)
    assert workers.map(str, [4, 5, 6]) == ["4", "5", "6"]
    workers.close()
    assert sorted(done) == was_done == [1, 2, 3]


def _refuse_thread(_: threading.Thread) -> None:
    raise RuntimeError("can't start new thread")

"""Answers on their way from a decode worker back to the store: which rows, in which order, and what has no room."""

import contextlib
import threading
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pytest
import torch
from sglang.srt.mem_cache.radix_cache import RadixKey

from prefillshare.store import KvStore, chain_keys
from sglang_patches.store.write_back import WriteBack
from tests.store.stores import PAGE_TOKENS, identity, settings

LAYERS, HEADS, HEAD_DIM, NUM_ROWS = 2, 2, 8, 512
PAGE = identity(page_bytes=2 * LAYERS * PAGE_TOKENS * HEADS * HEAD_DIM * 4)
TOKENS = list(range(100, 100 + 6 * PAGE_TOKENS))


def rows_of_kv(seed: int) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return [torch.randn(NUM_ROWS, HEADS, HEAD_DIM, generator=generator) for _ in range(LAYERS)]


@dataclass(slots=True)
class Pool:
    """A pool of plain KV."""

    dtype: torch.dtype = torch.float32
    store_dtype: torch.dtype = torch.float32
    layer_num: int = LAYERS
    head_num: int = HEADS
    head_dim: int = HEAD_DIM
    k_buffer: list[torch.Tensor] = field(default_factory=lambda: rows_of_kv(1))
    v_buffer: list[torch.Tensor] = field(default_factory=lambda: rows_of_kv(2))

    def pages(self, rows: torch.Tensor) -> list[bytes]:
        """The pages of these rows: K and then V, layer by layer, token by token."""
        return [
            b"".join(buffer[page].numpy().tobytes() for buffers in (self.k_buffer, self.v_buffer) for buffer in buffers)
            for page in rows.view(-1, PAGE_TOKENS)
        ]


@pytest.fixture
def store(tmp_path: Path) -> Iterator[KvStore]:
    store = KvStore.attach(settings(tmp_path), PAGE)
    yield store
    store.close()


def key(num_tokens: int = len(TOKENS), extra_key: str | None = None) -> RadixKey:
    return RadixKey(TOKENS[:num_tokens], extra_key)


def stored(store: KvStore, extra_key: str | None = None) -> list[bytes]:
    """The leading pages of the tokens that the store has."""
    keys = chain_keys(PAGE, extra_key, TOKENS, PAGE_TOKENS)
    into: Sequence[np.ndarray] = [np.empty(PAGE.page_bytes, np.uint8) for _ in keys]
    return [page.tobytes() for page in into[: store.read(keys, into)]]


def scattered() -> torch.Tensor:
    """Whole pages of rows, in no order."""
    return torch.cat([torch.arange(page * PAGE_TOKENS, (page + 1) * PAGE_TOKENS) for page in (9, 3, 30, 4, 12, 7)])


def drain(write_back: WriteBack) -> None:
    write_back._thread.submit(lambda: None).result()


def test_pages_are_those_that_a_prefill_worker_would_write(store):
    pool, rows = Pool(), scattered()
    write_back = WriteBack(store, PAGE, pool)
    write_back.add(key(), rows)
    expected = pool.pages(rows)
    # From here on the rows are somebody else's.
    for buffer in (*pool.k_buffer, *pool.v_buffer):
        buffer.zero_()
    drain(write_back)
    assert stored(store) == expected
    assert write_back.stats().written_pages == len(expected)


def test_only_what_the_store_lacks_is_written(store):
    pool, rows = Pool(), scattered()
    write_back = WriteBack(store, PAGE, pool)
    write_back.add(key(2 * PAGE_TOKENS), rows[: 2 * PAGE_TOKENS])
    drain(write_back)
    write_back.add(key(), rows)
    drain(write_back)
    write_back.add(key(), rows)
    drain(write_back)
    assert write_back.stats().written_pages == len(TOKENS) // PAGE_TOKENS
    assert stored(store) == pool.pages(rows)


def test_tenants_are_kept_apart(store):
    write_back = WriteBack(store, PAGE, Pool())
    write_back.add(key(extra_key="a"), scattered())
    drain(write_back)
    assert [len(stored(store, tenant)) for tenant in ("a", "b", None)] == [6, 0, 0]


def test_what_has_no_room_is_dropped_from_the_end_and_counted(store):
    pool, rows, may_write = Pool(), scattered(), threading.Event()
    write_back = WriteBack(store, PAGE, pool, max_pending_bytes=4 * PAGE.page_bytes)
    write_back._thread.submit(may_write.wait)
    write_back.add(key(), rows)
    assert write_back.num_dropped == 2
    # Nothing waits for a thread that is busy.
    write_back.add(key(), rows)
    assert write_back.num_dropped == 2 + 6
    may_write.set()
    drain(write_back)
    assert stored(store) == pool.pages(rows)[:4]
    write_back.add(key(), rows)
    drain(write_back)
    assert stored(store) == pool.pages(rows)


def test_an_answer_from_before_a_flush_does_not_come_in_after_it(store):
    write_back, may_write = WriteBack(store, PAGE, Pool()), threading.Event()
    write_back._thread.submit(may_write.wait)
    write_back.add(key(), scattered())
    threading.Timer(0.05, may_write.set).start()
    write_back.flush()
    assert stored(store) == []
    write_back.add(key(), scattered())
    drain(write_back)
    assert len(stored(store)) == 6


@contextlib.contextmanager
def no_more_threads() -> Iterator[None]:
    def refuse(thread: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(threading.Thread, "start", refuse)
        yield


def test_without_a_thread_an_answer_is_dropped_and_the_next_one_kept(store):
    """The scheduler's thread asks: it would end of an exception, and the engine with it."""
    pool, rows = Pool(), scattered()
    write_back = WriteBack(store, PAGE, pool, max_pending_bytes=6 * PAGE.page_bytes)
    with no_more_threads():
        write_back.add(key(), rows)
        write_back.add(key(extra_key="a"), rows)
    assert write_back.num_dropped == 6 + 6
    write_back.add(key(extra_key="b"), rows)
    drain(write_back)
    assert [len(stored(store, tenant)) for tenant in (None, "a", "b")] == [0, 0, 6]


def test_without_a_thread_all_is_forgotten_all_the_same(store):
    first, second = WriteBack(store, PAGE, Pool()), WriteBack(store, PAGE, Pool())
    first.add(key(), scattered())
    drain(first)
    with no_more_threads():
        second.flush()
    assert stored(store) == []


def test_without_memory_for_a_copy_an_answer_is_dropped_and_the_next_one_kept(store, monkeypatch):
    write_back = WriteBack(store, PAGE, Pool())

    def have_none(rows: torch.Tensor) -> torch.Tensor:
        raise torch.OutOfMemoryError

    with monkeypatch.context() as patch:
        patch.setattr(write_back, "_copy", have_none)
        write_back.add(key(), scattered())
    assert write_back.num_dropped == 6
    write_back.add(key(), scattered())
    drain(write_back)
    assert len(stored(store)) == 6

"""The stores that a host's process opens for its peers, while engines open others."""

import contextlib
import threading
import time
from collections.abc import Callable
from pathlib import Path

from prefillshare.store import KvStore
from prefillshare.store.folders import memory_folder
from prefillshare.store.opening import attaching
from prefillshare.store.remote.stores import LocalStores
from tests.store.stores import chain, identity, pages, settings

WAIT_S = 120.0
MOMENT_S = 0.01


def finished(work: Callable[[], object]) -> bool:
    """Whether work ends."""
    thread = threading.Thread(target=work, daemon=True)
    thread.start()
    thread.join(WAIT_S)
    return not thread.is_alive()


def test_a_store_that_is_open_is_had_while_an_engine_opens_another_one(tmp_path: Path) -> None:
    where, first, second = settings(tmp_path), identity(), identity(layers=3)
    engines = [KvStore.attach(where, each) for each in (first, second)]
    stores, keys = LocalStores(where), chain(4)
    engines[0].write(keys, pages(keys))
    assert stores.get(first.digest(), WAIT_S) is not None
    with attaching(memory_folder(where.memory_directory, where.name)):
        had: list[object] = []
        for digest in (second.digest(), first.digest(), second.digest(), b"?" * 32):
            assert finished(lambda digest=digest: had.append(stores.get(digest, MOMENT_S)))
        assert [found is not None for found in had] == [False, True, False, False]
    # What was opened then is had from then on.
    deadline = time.monotonic() + WAIT_S
    while (found := stores.get(second.digest(), MOMENT_S)) is None:
        assert time.monotonic() < deadline
    assert found[0] == second
    for engine in engines:
        engine.close()


def test_a_file_that_was_made_anew_is_opened_anew(tmp_path: Path) -> None:
    where, keys, stores = settings(tmp_path), chain(4), LocalStores(settings(tmp_path))
    with contextlib.closing(KvStore.attach(where, identity())) as engine:
        engine.write(keys, pages(keys))
        before = stores.get(identity().digest(), WAIT_S)
        assert before is not None
        assert before[1].count_present(keys) == 4
        for file in memory_folder(where.memory_directory, where.name).glob("*.store"):
            file.unlink()
    assert stores.get(identity().digest(), WAIT_S) is None
    with contextlib.closing(KvStore.attach(where, identity())):
        after = stores.get(identity().digest(), WAIT_S)
    assert after is not None
    assert after[1].count_present(keys) == 0
    assert not before[1].is_open

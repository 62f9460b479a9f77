"""Two hosts on this machine: what one has, the other gets by NIXL over TCP, whole and once, or not at all."""

import os
import signal
import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import httpx
import numpy as np
import pytest

from prefillshare.errors import StoreError
from prefillshare.store import chain_keys
from prefillshare.store.remote.secret import read_secret
from tests.store.remote.hosts import Host, free_address, host, secret_file
from tests.store.stores import PAGE_BYTES, chain, page, pages, read

BIG = {"memory_bytes": 128 << 20}


@pytest.fixture(autouse=True)
def _only_tcp(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("UCX_TLS", "tcp")


@pytest.fixture
def folder() -> Iterator[Path]:
    # A Unix socket's path is short, and pytest's are not.
    with tempfile.TemporaryDirectory(prefix="ps") as made:
        yield Path(made)


@pytest.fixture
def secret(tmp_path: Path) -> Path:
    return secret_file(tmp_path)


@pytest.fixture
def first(folder: Path, secret: Path) -> Iterator[Host]:
    with host(folder / "first", secret, serve=free_address(), **BIG) as running:
        yield running


@pytest.fixture
def second(folder: Path, secret: Path, first: Host) -> Iterator[Host]:
    with host(folder / "second", secret, peers=(f"http://{first.settings.serve}",), **BIG) as running:
        yield running


def fetch_all(asking: Host, keys: Sequence[bytes], num_pages: int, prefix: Sequence[bytes] = ()) -> None:
    """Fetch until so many pages have come: of a peer that stands still for a second, as on a busy machine, the rest
    comes later."""
    deadline, num_got = time.monotonic() + 180, 0
    while (num_got := num_got + asking.fetch(keys[num_got:], prefix=[*prefix, *keys[:num_got]])) < num_pages:
        assert time.monotonic() < deadline, num_got
        time.sleep(0.2)
    assert num_got == num_pages


def test_pages_of_another_host_come_once_and_stay(first: Host, second: Host) -> None:
    keys = chain(300)
    first.store.write(keys, pages(keys))
    assert read(second.store, keys) == 0
    fetch_all(second, keys, 300)
    assert read(second.store, keys) == 300
    # What is here already is not written again, and the peer need not live for it.
    first.process.end()
    assert read(second.store, keys) == 300
    assert second.store.stats().failures == 0


def test_of_a_chain_the_part_that_the_peer_has_is_fetched_behind_what_is_here(first: Host, second: Host) -> None:
    keys = chain(40)
    first.store.write(keys[:30], pages(keys[:30]))
    second.store.write(keys[:10], pages(keys[:10]))
    fetch_all(second, keys[10:], 20, prefix=keys[:10])
    assert read(second.store, keys) == 30
    assert second.fetch(chain(8, of=1)) == 0


def test_the_peer_with_most_pages_is_asked_and_the_next_one_for_the_rest(folder: Path, secret: Path) -> None:
    keys = chain(30)
    with (
        host(folder / "a", secret, serve=free_address()) as short,
        host(folder / "b", secret, serve=free_address()) as long,
        host(folder / "c", secret, peers=tuple(f"http://{at.settings.serve}" for at in (short, long))) as asking,
    ):
        short.store.write(keys[:10], pages(keys[:10]))
        long.store.write(keys, pages(keys))
        fetch_all(asking, keys, 30)
        more = chain(20, of=2)
        short.store.write(more, pages(more))
        long.process.end()
        fetch_all(asking, more, 20)
        assert read(asking.store, keys) == 30
        assert read(asking.store, more) == 20


@pytest.mark.slow
def test_a_peer_killed_at_any_moment_costs_what_has_not_come(first: Host, second: Host) -> None:
    keys = chain(20_000)
    first.store.write(keys, pages(keys))
    killer = threading.Timer(0.15, os.kill, (first.process.pid, signal.SIGKILL))
    killer.start()
    num_got = second.fetch(keys)
    killer.join()
    assert read(second.store, keys) == num_got
    _step_until(first, lambda: second.fetch(keys[num_got:], prefix=keys[:num_got]) == len(keys) - num_got)
    assert read(second.store, keys) == len(keys)


def test_a_peer_that_stands_still_holds_up_one_fetch_and_is_left_alone_then(first: Host, second: Host) -> None:
    keys = chain(50)
    first.store.write(keys, pages(keys))
    os.kill(first.process.pid, signal.SIGSTOP)
    try:
        assert second.fetch(keys, timeout_s=1.0) == 0
        assert "gives no pages" in second.log
        started = time.monotonic()
        # Not asked: the answer does not wait for the peer's second that a question may take.
        assert second.fetch(keys, timeout_s=1.0) == 0
        assert time.monotonic() - started < 60
    finally:
        os.kill(first.process.pid, signal.SIGCONT)
    _step_until(first, lambda: second.fetch(keys) == 50)
    assert read(second.store, keys) == 50


def test_a_host_without_the_secret_gets_and_gives_nothing(tmp_path: Path, folder: Path, first: Host) -> None:
    keys = chain(20)
    first.store.write(keys, pages(keys))
    other = secret_file(tmp_path, "other")
    with host(folder / "stranger", other, peers=(f"http://{first.settings.serve}",)) as stranger:
        deadline = time.monotonic() + 120
        # One that stands still for a second is told as such, and asked again.
        while "status 403" not in stranger.log:
            assert stranger.fetch(keys) == 0
            assert time.monotonic() < deadline, stranger.log
            time.sleep(0.2)
    assert httpx.post(f"http://{first.settings.serve}/find", content=b"\x00", timeout=120).status_code == 403


def test_pages_of_other_weights_are_not_found(first: Host, second: Host) -> None:
    from tests.store.stores import identity

    keys = chain(20)
    first.store.write(keys, pages(keys))
    second.identity = identity(prefill_fingerprint="another")
    from prefillshare.store import KvStore
    from prefillshare.store.remote.client import FetchClient

    store = KvStore.attach(second.settings, second.identity)
    client = FetchClient(second.settings, second.identity)
    assert client.begin(keys, (), 5.0).result(120) == 0
    assert read(store, keys) == 0
    client.close()
    store.close()


def test_an_address_that_is_taken_is_said(folder: Path, secret: Path, first: Host) -> None:
    with (
        pytest.raises(StoreError, match="cannot be listened on"),
        host(folder / "third", secret, serve=first.settings.serve),
    ):
        pass


def test_a_secret_that_others_can_read_or_guess_is_refused(tmp_path: Path, secret: Path) -> None:
    read_secret(secret)
    secret.chmod(0o640)
    with pytest.raises(StoreError, match="mode 640"):
        read_secret(secret)
    secret.chmod(0o600)
    secret.write_bytes(b"short")
    with pytest.raises(StoreError, match="has 5 bytes"):
        read_secret(secret)
    with pytest.raises(StoreError, match="cannot be read"):
        read_secret(tmp_path / "nowhere")


def _step_until(sharing: Host, is_done: object) -> None:
    """Look after a host's process until what is asked is so; a peer that failed is asked again after a while."""
    deadline = time.monotonic() + 180
    while not is_done():  # type: ignore[operator]
        assert time.monotonic() < deadline
        sharing.process.step()
        time.sleep(0.2)


@pytest.mark.parametrize("codec", ["splitzip", "none", "auto"])
def test_pages_cross_encoded_or_not_and_are_the_same(folder: Path, secret: Path, codec: str) -> None:
    address, kind = free_address(), {"codec": codec, "memory_bytes": 8 << 20}
    with (
        host(folder / "a", secret, "torch.bfloat16", serve=address, **kind) as first,
        host(folder / "b", secret, "torch.bfloat16", peers=(f"http://{address}",), **kind) as second,
    ):
        keys = chain_keys(first.identity, None, np.arange(60 * 16), 16)
        # Half of them are like KV; the codec makes nothing of the others.
        right = [kv_like(key) if number % 2 else page(key) for number, key in enumerate(keys)]
        assert first.store.write(keys, right) == 60
        fetch_all(second, keys, 60)
        into = [np.empty(PAGE_BYTES, dtype=np.uint8) for _ in keys]
        assert second.store.read(keys, into) == 60
        assert [came.tobytes() for came in into] == [there.tobytes() for there in right]


def kv_like(key: bytes) -> np.ndarray:
    """A page of bfloat16 values that are spread as those of KV are."""
    generator = np.random.Generator(np.random.SFC64(int.from_bytes(key[:8], "little")))
    values = generator.standard_normal(PAGE_BYTES // 2, dtype=np.float32)
    return np.ascontiguousarray(values.view("<u2")[1::2]).view(np.uint8)

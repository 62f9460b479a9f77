"""KV events keep the index true: what a worker evicted or flushed is not looked for there any more."""

import contextlib
from collections.abc import AsyncIterator
from pathlib import Path

import msgspec
import pytest
import zmq
import zmq.asyncio

from prefillshare.routing.gateway import Gateway
from prefillshare.routing.settings import RouterSettings
from prefillshare.routing.workers.kv_events import Evictions
from prefillshare.routing.workers.spec import WorkerSpec
from tests.routing.workers import BASE, in_loop, until

PROMPT = b"x" * 384  # six blocks


def _stored(num_blocks: int, block_size: int) -> list[object]:
    return ["BlockStored", list(range(num_blocks)), None, [0] * block_size, block_size, None, "GPU"]


def _batch(*events: list[object]) -> bytes:
    return msgspec.msgpack.encode([1.0, list(events), 0])


def test_evicted_tokens_are_counted_in_blocks() -> None:
    found = Evictions()
    found.add(_batch(_stored(1, 16), ["BlockRemoved", [1, 2, 3], "GPU"]))
    assert found.take() == Evictions(num_tokens=48, is_cleared=False, block_size=16)
    found.add(_batch(["BlockRemoved", [4], "GPU"], ["AllBlocksCleared"], ["BlockRemoved", [5], "GPU"]))
    assert found.take() == Evictions(num_tokens=16, is_cleared=True, block_size=16)
    assert found.take().num_tokens == 0


def test_what_goes_to_the_host_is_gone_only_when_the_host_gives_it_up() -> None:
    found = Evictions()
    stored = ["BlockStored", [7, 8], None, [0] * 16, 16, None, "GPU"]
    found.add(_batch(stored, [*stored[:-1], "CPU_PINNED"], ["BlockRemoved", [7, 8], "GPU"]))
    assert found.take().num_tokens == 0
    found.add(_batch(["BlockRemoved", [8], "CPU_PINNED"]))
    assert found.take().num_tokens == 16
    # Computed again, and this time not copied to the host.
    found.add(_batch([*stored[:1], [8], *stored[2:]], ["BlockRemoved", [7, 8], "GPU"]))
    assert found.take().num_tokens == 16


@pytest.mark.parametrize(
    "content", [b"", b"\xc1", msgspec.msgpack.encode(7), msgspec.msgpack.encode({}), msgspec.msgpack.encode([1.0, [3]])]
)
def test_a_message_that_is_none_is_said(content: bytes) -> None:
    with pytest.raises(ValueError, match="not a batch of KV events"):
        Evictions().add(content)


class Publisher:
    """Speaks as SGLang's publisher does."""

    def __init__(self, address: str) -> None:
        self._context = zmq.asyncio.Context()
        self._socket = self._context.socket(zmq.XPUB)
        self._socket.bind(address)
        self._number = 0

    async def subscribed(self) -> None:
        assert await self._socket.recv() == b"\x01"

    async def unsubscribed(self) -> None:
        assert await self._socket.recv() == b"\x00"

    async def send(self, content: bytes) -> None:
        await self._socket.send_multipart([b"", self._number.to_bytes(8, "big"), content])
        self._number += 1

    def close(self) -> None:
        self._context.destroy(linger=0)


def _gateway(address: str) -> Gateway:
    """A router before one worker that publishes there."""
    spec = WorkerSpec(
        id="p0",
        role="prefill",
        url="http://127.0.0.1:9",
        bootstrap_host="127.0.0.1",
        bootstrap_port=1,
        kv_events=address,
    )
    return Gateway(RouterSettings(base_model=BASE, workers=(spec,)))


@contextlib.asynccontextmanager
async def _listening(tmp_path: Path) -> AsyncIterator[tuple[Gateway, Publisher]]:
    address = f"ipc://{tmp_path}/p0.kv"
    publisher = Publisher(address)
    gateway = _gateway(address)
    try:
        await publisher.subscribed()
        gateway.parts.chooser.index.insert(PROMPT, "p0", "d0")
        yield gateway, publisher
    finally:
        await gateway.close()
        publisher.close()


@in_loop
async def test_what_a_worker_evicts_leaves_the_index_for_it_alone(tmp_path: Path) -> None:
    async with _listening(tmp_path) as (gateway, publisher):
        index = gateway.parts.chooser.index
        index.insert(b"z" * 64, "p0")
        index.match(PROMPT)  # now the longest unused prefix is the short one
        index.insert(b"y" * 192, "p0")
        await publisher.send(b"not msgpack")
        # Of 4 bytes each: the short prefix, and of the 216 bytes that are left over, nothing, for PROMPT has 384.
        await publisher.send(_batch(["BlockRemoved", list(range(70)), "GPU"]))
        await until(lambda: index.held_bytes("p0") == 576)
        assert index.match(PROMPT) == {"p0": 384, "d0": 384}
        index.match(b"y" * 192)
        await publisher.send(_batch(["BlockRemoved", list(range(50)), "GPU"]))
        await until(lambda: index.held_bytes("p0") < 576)
        assert index.match(PROMPT) == {"d0": 384}
        assert index.match(b"y" * 192) == {"p0": 192}


@in_loop
async def test_a_worker_that_was_flushed_holds_nothing(tmp_path: Path) -> None:
    async with _listening(tmp_path) as (gateway, publisher):
        await publisher.send(_batch(["AllBlocksCleared"]))
        await until(lambda: gateway.parts.chooser.index.match(PROMPT) == {"d0": 384})


@in_loop
async def test_a_worker_that_left_is_not_listened_to(tmp_path: Path) -> None:
    async with _listening(tmp_path) as (gateway, publisher):
        await gateway.leave("p0")
        gateway.parts.chooser.index.insert(PROMPT, "p0")
        await publisher.unsubscribed()
        await publisher.send(_batch(["AllBlocksCleared"]))
        assert gateway.parts.chooser.index.match(PROMPT)["p0"] == 384


@pytest.mark.parametrize("address", ["tcp://127.0.0.1", "ipc://" + "x" * 200])
@in_loop
async def test_a_worker_whose_events_cannot_be_heard_is_named_and_leaves_as_others_do(
    address: str, caplog: pytest.LogCaptureFixture
) -> None:
    gateway = _gateway(address)
    await until(lambda: "p0 publishes its KV events at" in caplog.text)
    await gateway.leave("p0")
    assert [event["kind"] for event in gateway.parts.observer.events.as_list()] == ["worker_joined", "worker_left"]
    await gateway.close()

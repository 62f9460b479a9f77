"""What workers tell of their own caches: SGLang's KV events, over ZeroMQ.

Answers tell the router what a worker holds after a call; only events tell what it has evicted since. An event counts
evicted tokens, not text, and the router has no tokenizer: the index drops as many bytes of the worker's prefixes, the
longest unused first, which is the order in which the worker's cache evicts.

A worker with a store evicts to the host's memory first: what is removed from its GPU and is in the host still (the
event's `medium` tells the two apart) is demoted and not gone. It is gone when the host gives it up.

Source: sglang/srt/disaggregation/kv_events.py at 0.5.17 (three frames: topic, sequence number, a msgpack batch).
"""

import asyncio
import contextlib
import logging
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import msgspec
import zmq
import zmq.asyncio

from prefillshare.peer_keys import PeerKeys, secure_client
from prefillshare.routing.workers.worker import Worker

HOST_MEDIUM = "CPU_PINNED"
"""What SGLang calls the host's memory in events, with or without a GPU."""

log = logging.getLogger(__name__)

_GATHER_S = 0.2
"""Evictions are applied at most this often: each time, the index is walked once."""


@dataclass(slots=True)
class Evictions:
    """What a worker dropped since it was last asked."""

    num_tokens: int = 0
    """Tokens evicted."""
    is_cleared: bool = False
    """Whether everything before them was dropped at once."""
    block_size: int = 1
    """Tokens per block, as the worker's events have shown it."""
    on_host: set[int] = field(default_factory=set, compare=False)
    """Blocks in the worker's tier in the host's memory, by hash."""

    def add(self, batch: bytes) -> None:
        """Count the events of one message.

        Raises: ValueError when it holds none.
        """
        try:
            for kind, *fields in msgspec.msgpack.decode(batch)[1]:
                self._add(kind, fields)
        except (msgspec.DecodeError, TypeError, LookupError) as error:
            raise ValueError(f"this is not a batch of KV events ({error})") from None

    def _add(self, kind: str, fields: list[Any]) -> None:
        # Blocks are as large as the worker's pages; until it has stored one, removed ones count as a token each.
        if kind == "BlockRemoved":
            self.num_tokens += self._count_gone(*fields) * self.block_size
        elif kind == "BlockStored":
            self.block_size = fields[3]
            if fields[5:6] == [HOST_MEDIUM]:
                self.on_host.update(fields[0])
        elif kind == "AllBlocksCleared":  # what was evicted before is gone with the rest
            self.num_tokens, self.is_cleared = 0, True
            self.on_host.clear()

    def _count_gone(self, hashes: list[int], medium: str | None = None) -> int:
        if medium == HOST_MEDIUM:  # the host gives up only what the GPU has given up before
            self.on_host.difference_update(hashes)
            return len(hashes)
        return sum(block not in self.on_host for block in hashes)

    def take(self) -> "Evictions":
        """Return what was counted and begin anew."""
        taken = Evictions(self.num_tokens, self.is_cleared, self.block_size)
        self.num_tokens, self.is_cleared = 0, False
        return taken


class KvEvents:
    """Listens to every worker that publishes events; each has one task and one socket, which `unwatch` ends."""

    def __init__(self, on_evicted: Callable[[Worker, Evictions], None], keys: PeerKeys | None = None) -> None:
        """`keys` are those of workers that publish over a network; None where such workers cannot be."""
        self._on_evicted = on_evicted
        self._keys = keys
        self._context = zmq.asyncio.Context()
        self._listeners: dict[str, asyncio.Task[None]] = {}

    def watch(self, worker: Worker) -> None:
        """Begin to listen to `worker`, if it publishes events."""
        if worker.spec.kv_events is not None:
            self._listeners[worker.id] = asyncio.create_task(self._listen(worker, worker.spec.kv_events))

    async def unwatch(self, worker: Worker) -> None:
        """Stop listening to `worker`."""
        if listener := self._listeners.pop(worker.id, None):
            listener.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await listener

    def close(self) -> None:
        """Give the sockets back; nobody may be listened to any more."""
        self._context.destroy(linger=0)

    async def _listen(self, worker: Worker, address: str) -> None:
        try:
            await self._hear(worker, address)
        except zmq.ZMQError as error:  # of an address that is none, or where no descriptor is left
            log.warning(
                "%s publishes its KV events at %s, and they cannot be heard (%s): what it evicts counts as held; give "
                "another kv_events, and let it join again",
                worker.id,
                address,
                error.strerror,
            )

    async def _hear(self, worker: Worker, address: str) -> None:
        """Listen for as long as it takes.

        Raises: zmq.ZMQError.
        """
        found = Evictions()
        with self._context.socket(zmq.SUB) as socket:
            socket.subscribe(b"")
            # On this machine, the folder of the socket is private.
            if self._keys and not address.startswith("ipc://"):
                secure_client(socket, self._keys)
            socket.connect(address)
            while True:
                _count(worker, found, await socket.recv_multipart())
                await asyncio.sleep(_GATHER_S)
                while await socket.poll(0):
                    _count(worker, found, await socket.recv_multipart())
                taken = found.take()
                if taken.num_tokens or taken.is_cleared:
                    self._on_evicted(worker, taken)


def _count(worker: Worker, found: Evictions, frames: list[bytes]) -> None:
    try:
        found.add(frames[-1])
    except ValueError as error:
        log.warning("%s at %s: %s", worker.id, worker.spec.kv_events, error)

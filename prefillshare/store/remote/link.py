"""NIXL between two hosts: memory that peers may read, and reads of theirs.

Over UCX: RDMA where there is some, else TCP. Without its progress thread, which spins a core: whoever has pages staged
turns its agent while they are out, and a reader while it waits.
"""

import logging
import os
import secrets
import socket
import time
from collections.abc import Sequence
from typing import Any

import numpy as np

from prefillshare.store.base import Bytes

READ_BYTES = 32 << 20
"""What a reader takes at once."""
_TURN_S = 0.0002
_LOOPBACK = "127.0.0.1"
_MOST_STUCK = 8

_Places = list[tuple[int, int, int]]
"""Address, length, device."""

logger = logging.getLogger(__name__)


class LinkError(Exception):
    """Pages did not come."""


def keep_to_loopback(address: str) -> None:
    """Let NIXL listen on the loopback interface alone where this host serves there; before any agent is made."""
    if address == _LOOPBACK:
        os.environ.setdefault("UCX_NET_DEVICES", "lo")


def make_agent(memory: Bytes) -> Any:
    """A NIXL agent that has registered `memory`."""
    # Here, and not at the top: what is imported loads UCX.
    from nixl._api import nixl_agent, nixl_agent_config

    name = f"{socket.gethostname()}-{os.getpid()}-{secrets.token_hex(4)}"
    agent = nixl_agent(name, nixl_agent_config(enable_prog_thread=False, num_threads=0))
    agent.register_memory([(memory.ctypes.data, memory.nbytes, 0, "")], "DRAM")
    return agent


class Exporter:
    """Memory of this process that peers may read; a thread turns the agent while something is out."""

    def __init__(self, num_bytes: int) -> None:
        self.memory = np.zeros(num_bytes, dtype=np.uint8)
        self._agent = make_agent(self.memory)
        self.name: str = self._agent.name
        self.metadata: bytes = self._agent.get_agent_metadata()
        self._is_told = False

    def turn(self) -> list[bytes]:
        """Let the network go on; what readers have said since the last turn. Called by one thread only."""
        said: dict[str, list[bytes]] = {}
        try:
            said = self._agent.get_new_notifs()
        except Exception as error:  # NIXL's errors have no class in common; nobody else would turn the agent
            self._tell(error)
        time.sleep(_TURN_S)
        return [message for messages in said.values() for message in messages]

    def _tell(self, error: Exception) -> None:
        if not self._is_told:
            self._is_told = True
            logger.warning("what peers say cannot be heard, and their pages are kept for them longer: %s", error)


class Importer:
    """Reads of one peer's memory into memory that nobody else writes to; used by one thread at a time."""

    def __init__(self) -> None:
        self._memory: Bytes | None = None
        self._agent: Any = None
        self._peer = ""
        self._stuck: list[tuple[Any, Any, Bytes | None]] = []
        """Transfers that could not be ended, whose memory may still be written to: never used again."""

    def knows(self, peer: str) -> bool:
        """Whether this is the agent that was met last."""
        return self._agent is not None and self._peer == peer

    def meet(self, peer: str, metadata: bytes) -> None:
        """Get to know the peer's agent, and forget an earlier one of the same peer.

        Raises: LinkError.
        """
        if len(self._stuck) >= _MOST_STUCK:
            raise LinkError(f"{_MOST_STUCK} transfers from it could not be ended: start the deployment again")
        try:
            if self._agent is None:
                self._memory = np.zeros(READ_BYTES, dtype=np.uint8)
                self._agent = make_agent(self._memory)
            self._forget_peer()
            met = self._agent.add_remote_agent(metadata)
        except Exception as error:  # NIXL's errors have no class in common
            self._agent = None
            raise LinkError(f"NIXL does not know the peer: {type(error).__name__} {error}") from error
        self._peer = met.decode() if isinstance(met, bytes) else str(met)
        if self._peer != peer:
            raise LinkError(f"the peer's agent is named {self._peer} and not {peer}")

    def read(self, places: Sequence[tuple[int, int]], said: bytes, deadline: float) -> list[Bytes]:
        """Read pieces of the peer's memory, each an address and a length, and then say `said` to it.

        Returns views that the next read overwrites. Raises: LinkError.
        """
        if self._agent is None or self._memory is None:
            raise LinkError("the peer is not known")
        ends = np.cumsum([length for _, length in places]).tolist()
        if not ends or ends[-1] > READ_BYTES:
            raise LinkError(f"a read of {ends[-1] if ends else 0:,} bytes: {READ_BYTES:,} are the most")
        views = [self._memory[end - length : end] for end, (_, length) in zip(ends, places, strict=True)]
        here = [(view.ctypes.data, view.nbytes, 0) for view in views]
        self._transfer(here, [(address, length, 0) for address, length in places], said, deadline)
        return views

    def _transfer(self, here: _Places, there: _Places, said: bytes, deadline: float) -> None:
        agent, handle, state = self._agent, None, "ERR"
        try:
            local, remote = agent.get_xfer_descs(here, "DRAM"), agent.get_xfer_descs(there, "DRAM")
            handle = agent.initialize_xfer("READ", local, remote, self._peer, said)
            state = agent.transfer(handle)
            while state == "PROC" and time.monotonic() < deadline:
                time.sleep(_TURN_S)
                state = agent.check_xfer_state(handle)
        except Exception as error:  # NIXL's errors have no class in common
            self._give_up(handle)
            raise LinkError(f"NIXL: {type(error).__name__} {error}") from error
        if state != "DONE":
            self._give_up(handle)
            raise LinkError("the peer did not send in time" if state == "PROC" else "NIXL: the transfer failed")
        handle.release()

    def _give_up(self, handle: Any) -> None:
        """Go on with another agent and other memory: bytes that come late must not come into pages of later reads."""
        try:
            if handle is not None:
                handle.release()
            self._forget_peer()
        except Exception as error:  # NIXL's errors have no class in common
            self._stuck.append((handle, self._agent, self._memory))
            logger.warning("a transfer from a peer could not be ended: %s", error)
        self._agent, self._memory, self._peer = None, None, ""

    def _forget_peer(self) -> None:
        peer, self._peer = self._peer, ""
        if peer:
            self._agent.remove_remote_agent(peer)

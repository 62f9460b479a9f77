"""Memory of a decode worker into which a prefill worker on the same machine writes KV itself, without a transport.

``SharedMemory`` is the decode worker's side, ``Offer`` what it tells its prefill workers, ``PeerMemory`` a prefill
worker's side. The memory is an anonymous file: it has no name, /dev/shm's size does not bound it, it is gone with the
last process that maps it, and only who may read all memory of the decode worker (its own user, in its own PID
namespace) can open it. It cannot be made shorter, so that nobody dies of SIGBUS who maps it.

Who writes where: rows belong to a request of the decode worker (:mod:`sglang_patches.engine.decode_queues`), and one
transfer thread of one prefill worker writes to them, between the request's metadata and the message that its KV is
there. That message passes through the kernel, or a queue of UCX's with its fences, so who has read it sees the rows.
"""

from __future__ import annotations

import dataclasses
import fcntl
import json
import mmap
import os
import select
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch

Pages = npt.NDArray[np.void]

_BOOT_ID = Path("/proc/sys/kernel/random/boot_id")
_PID_NAMESPACE = Path("/proc/self/ns/pid")
_ALIGNMENT = mmap.PAGESIZE
_SEALS = fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_SEAL


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class Offer:
    """Where a process on the same machine finds the memory of this one."""

    machine: str
    """This start of the machine, and the PID namespace: equal where `pid` means the same process."""
    pid: int
    """The process that has the file open."""
    descriptor: int
    """The file's number there."""
    inode: int
    """The file's number on the machine: a process that took the place of a dead one has another."""
    address: int
    """Where the memory begins in that process."""
    num_bytes: int
    """Its length."""

    def pack(self) -> bytes:
        """As bytes, for a message."""
        return json.dumps(dataclasses.asdict(self)).encode()

    @classmethod
    def unpack(cls, message: bytes) -> Offer:
        """Raises: ValueError when this is no offer."""
        try:
            return cls(**json.loads(message))
        except TypeError as error:
            raise ValueError(f"no offer of memory: {message[:100]!r}") from error


def this_machine() -> str:
    """Raises: OSError where the system does not say."""
    return f"{_BOOT_ID.read_text().strip()} {_PID_NAMESPACE.stat().st_ino}"


class SharedMemory:
    """Zeroed memory of this process; pages exist from when they are first written."""

    def __init__(self, num_bytes: int) -> None:
        """Raises: OSError where the system has no such memory."""
        self._file = os.memfd_create("prefillshare-kv", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
        try:
            os.ftruncate(self._file, num_bytes)
            fcntl.fcntl(self._file, fcntl.F_ADD_SEALS, _SEALS)
            self._bytes = torch.frombuffer(mmap.mmap(self._file, num_bytes), dtype=torch.uint8)
        except OSError:
            os.close(self._file)
            raise

    @classmethod
    def replace(cls, tensors: Sequence[torch.Tensor]) -> tuple[SharedMemory, list[torch.Tensor]]:
        """Memory for as many tensors of the same shapes, and those, all zero."""
        starts, end = [], 0
        for tensor in tensors:
            starts.append(end)
            end += -(-tensor.nbytes // _ALIGNMENT) * _ALIGNMENT
        memory = cls(end)
        return memory, [memory._place(tensor, start) for tensor, start in zip(tensors, starts, strict=True)]

    def _place(self, like: torch.Tensor, start: int) -> torch.Tensor:
        return self._bytes[start : start + like.nbytes].view(like.dtype).view(like.shape)

    def offer(self) -> Offer:
        """Raises: OSError where the system does not say which machine this is."""
        return Offer(
            machine=this_machine(),
            pid=os.getpid(),
            descriptor=self._file,
            inode=os.fstat(self._file).st_ino,
            address=self._bytes.data_ptr(),
            num_bytes=self._bytes.nbytes,
        )


class PeerMemory:
    """The memory of another process, as it is seen from here; it exists for as long as it is used."""

    def __init__(self, offer: Offer) -> None:
        """Raises: OSError, naming the reason, where it cannot be reached."""
        if offer.machine != this_machine():
            raise OSError("it runs on another machine or in another PID namespace")
        # Before the file is opened: if this is that process' successor, the file is another one or there is none.
        self._process = os.pidfd_open(offer.pid)
        try:
            self._address = offer.address
            self._bytes = _map(offer)
        except OSError:
            os.close(self._process)
            raise

    def pages_at(self, address: int, num_pages: int, page_bytes: int) -> Pages:
        """The pages that begin at ``address`` of the other process.

        Raises: OSError when they are not a part of its memory.
        """
        start, size = address - self._address, num_pages * page_bytes
        if not 0 <= start <= start + size <= self._bytes.nbytes:
            raise OSError("its KV lies outside of the memory that it offers")
        return as_pages(self._bytes[start : start + size], page_bytes)

    def wait_for_end(self) -> None:
        """Return when the other process has ended; called once."""
        poll = select.poll()
        poll.register(self._process, select.POLLIN)
        poll.poll()
        os.close(self._process)


def as_pages(flat: npt.NDArray[np.uint8], page_bytes: int) -> Pages:
    """Bytes as pages, each one value of an array: numpy copies such a value in one piece, and outside of the GIL."""
    return flat.view(np.dtype((np.void, page_bytes)))


def _map(offer: Offer) -> npt.NDArray[np.uint8]:
    file = os.open(f"/proc/{offer.pid}/fd/{offer.descriptor}", os.O_RDWR | os.O_CLOEXEC)
    try:
        found = os.fstat(file)
        if (found.st_ino, found.st_size) != (offer.inode, offer.num_bytes):
            raise OSError("the process that offered it is gone")
        if fcntl.fcntl(file, fcntl.F_GET_SEALS) & _SEALS != _SEALS:
            raise OSError("its memory could become shorter while it is written to")
        return np.frombuffer(mmap.mmap(file, offer.num_bytes), dtype=np.uint8)
    finally:
        os.close(file)

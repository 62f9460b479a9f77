"""What a store is given by its deployment."""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from prefillshare.contract import MAX_STORE_THREADS
from prefillshare.errors import StoreError

SHARED_MEMORY = Path("/dev/shm")

CodecName = Literal["auto", "none", "splitzip"]


@dataclass(frozen=True, slots=True, kw_only=True)
class StoreSettings:
    """Where a store keeps its pages, and how much of them."""

    name: str
    """The deployment's name: processes that name the same one, with the same identity, share one store."""
    memory_bytes: int
    """Bytes of shared memory, tables included, for each identity (each rank of a tensor-parallel engine has its
    own)."""
    directory: Path | None = None
    """Folder of the disk tier; without one there is none."""
    disk_bytes: int | None = None
    """Bytes of the disk tier for each identity; without a number half of what is free when it is made."""
    keeps_memory_size: bool = False
    """`memory_bytes` is for a new store; one that is there keeps its size. For a size that nobody chose, such as a
    share of what is free, which is another one at each launch."""
    keeps_disk_size: bool = False
    """The same for `disk_bytes`; without a number it is always so."""
    codec: CodecName = "auto"
    """How pages are kept: as they are, by SplitZip (bfloat16 only), or by whichever was measured to be sooner on the
    disk and on the way to peers."""
    threads: int = 1
    """Threads that copy, check and encode pages."""
    peers: tuple[str, ...] = ()
    """Addresses of other hosts' stores, such as "http://10.0.0.2:7000", whose pages are fetched."""
    serve: str | None = None
    """HOST:PORT at which peers find this host's store; without it they do not."""
    secret_file: Path | None = None
    """What peers have in common, with mode 600; needed for `peers` and `serve`."""
    memory_directory: Path = SHARED_MEMORY
    """File system in memory that holds the store; another one where a container's /dev/shm is small."""

    def __post_init__(self) -> None:
        if not self.name:
            raise StoreError("the store has no name: give the deployment's")
        if not 1 <= self.threads <= MAX_STORE_THREADS:
            raise StoreError(f"threads = {self.threads}: set 1 to {MAX_STORE_THREADS} under [store]")
        if self.codec not in ("auto", "none", "splitzip"):
            raise StoreError(f'codec = "{self.codec}": set "auto", "none" or "splitzip" under [store]')
        if self.has_peers and self.secret_file is None:
            raise StoreError("peers and serve under [store] need a secret: name its file with secret_file")
        if self.memory_bytes <= 0 or (self.disk_bytes is not None and self.disk_bytes <= 0):
            raise StoreError(
                f"memory_bytes = {self.memory_bytes} and disk_bytes = {self.disk_bytes}: a store has a size above 0"
            )

    @property
    def has_peers(self) -> bool:
        """Whether a process of the launch shares the store with other hosts, or fetches from them."""
        return bool(self.peers) or self.serve is not None

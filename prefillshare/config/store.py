"""The `[store]` table of a deployment file: memory of the host, and one store of prompts' KV for all engines."""

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from prefillshare.contract import LAST_PORT, MAX_STORE_THREADS
from prefillshare.errors import ConfigError

MIN_PAGE_TOKENS = 16
"""Least page size with a store: a page is looked up, checked and copied as one, at a price for each."""
_UNITS = {"KB": 10**3, "MB": 10**6, "GB": 10**9, "TB": 10**12}
_UNITS |= {"KiB": 1 << 10, "MiB": 1 << 20, "GiB": 1 << 30, "TiB": 1 << 40}
_ADDRESS = re.compile(r"(?:[A-Za-z0-9._-]+|\[[0-9A-Fa-f:.]+\]):(\d{1,5})")
_PEER = re.compile(rf"http://{_ADDRESS.pattern}")
_NO_SIZE_BYTES = float(1 << 63)
"""More than a file system can say of itself."""
_SIZE = re.compile(rf"(\d+(?:\.\d+)?)\s*({'|'.join(_UNITS)})")


@dataclass(frozen=True, slots=True, kw_only=True)
class Store:
    """Where KV goes that the pool of an engine has no room for, and where all engines of the deployment find it."""

    memory: str | None = None
    """Shared memory for the store, such as "8 GiB"; None is a quarter of what is free, at most half of what /dev/shm
    has free."""
    path: Path | None = None
    """Existing directory on a fast disk for what the memory has no room for, relative to the deployment file; None
    keeps the store in memory only."""
    disk: str | None = None
    """Room in `path`, such as "200 GiB"; None is half of what its file system has free."""
    codec: Literal["auto", "none", "splitzip"] = "auto"
    """Lossless compression of bfloat16 KV: "auto" on the disk and on the way to peers, where it was measured to be
    sooner; "splitzip" always, and in memory as well, so that more fits; "none" never."""
    threads: int = 2
    """Threads of each engine that copy into the store and out of it; up to 64."""
    host_ratio: float = 2.0
    """Memory of each engine's own tier in the host, as a multiple of its KV cache."""

    peers: tuple[str, ...] = ()
    """Addresses at which other hosts of the same deployment serve their stores, such as "http://10.0.0.2:7000"."""
    serve: str | None = None
    """ADDRESS:PORT at which this host serves its store to peers; None serves it to nobody."""
    secret_file: Path | None = None
    """File of mode 600 with the secret that all hosts have in common, relative to the deployment file."""

    def __post_init__(self) -> None:
        for name in ("memory", "disk"):
            if (text := getattr(self, name)) is not None:
                parse_size(text, name)
        if self.disk is not None and self.path is None:
            raise ConfigError(f"disk is {self.disk!r} and there is no path: name a directory with path, or remove disk")
        if not 1 <= self.threads <= MAX_STORE_THREADS:
            raise ConfigError(f"threads is {self.threads}: it must be 1 to {MAX_STORE_THREADS}")
        if not 1.0 <= self.host_ratio < float("inf"):
            raise ConfigError(
                f"host_ratio is {self.host_ratio}: a tier smaller than the KV cache could not take what it evicts, set "
                "1.0 or more"
            )

        self._check_peers()

    def _check_peers(self) -> None:
        for url in self.peers:
            if not _is_address(_PEER.fullmatch(url)):
                raise ConfigError(f'peers has {url!r}: write each as "http://HOST:PORT", where that host has serve')
        if len(set(self.peers)) < len(self.peers):
            raise ConfigError(f"peers is {list(self.peers)}: name each once")
        if self.serve is not None and not _is_address(_ADDRESS.fullmatch(self.serve)):
            raise ConfigError(f'serve is {self.serve!r}: write "ADDRESS:PORT", such as "10.0.0.1:7000"')
        if f"http://{self.serve}" in self.peers:
            raise ConfigError(f"peers has http://{self.serve}, which is this host's own serve: name the other hosts")
        if (bool(self.peers) or self.serve is not None) != (self.secret_file is not None):
            raise ConfigError(
                "peers and serve need secret_file, which is of no use without them: name all that is meant, or neither"
            )

    @property
    def memory_bytes(self) -> int | None:
        """`memory` in bytes."""
        return None if self.memory is None else parse_size(self.memory, "memory")

    @property
    def disk_bytes(self) -> int | None:
        """`disk` in bytes."""
        return None if self.disk is None else parse_size(self.disk, "disk")


def _is_address(found: re.Match[str] | None) -> bool:
    return found is not None and 1 <= int(found[1]) <= LAST_PORT


def parse_size(text: str, name: str) -> int:
    """Return a size such as "8 GiB" in bytes; `name` is its key.

    Raises: ConfigError.
    """
    found = _SIZE.fullmatch(text.strip())
    num_bytes = float(found[1]) * _UNITS[found[2]] if found else 0.0
    if not 1 <= num_bytes < _NO_SIZE_BYTES:
        raise ConfigError(f'{name} is {text!r}: write a size with its unit, such as "8 GiB" or "500 MB"')
    return int(num_bytes)

"""The `[store]` table of a deployment file: memory of the host, and one store of prompts' KV for all engines."""

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from prefillshare.errors import ConfigError

MIN_PAGE_TOKENS = 16
"""Least page size with a store: a page is looked up, checked and copied as one, at a price for each."""
_UNITS = {"KB": 10**3, "MB": 10**6, "GB": 10**9, "TB": 10**12}
_UNITS |= {"KiB": 1 << 10, "MiB": 1 << 20, "GiB": 1 << 30, "TiB": 1 << 40}
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
    codec: Literal["none", "splitzip"] = "none"
    """Lossless compression of bfloat16 KV in the store."""
    threads: int = 2
    """Threads of each engine that copy into the store and out of it."""
    host_ratio: float = 2.0
    """Memory of each engine's own tier in the host, as a multiple of its KV cache."""

    def __post_init__(self) -> None:
        for name in ("memory", "disk"):
            if (text := getattr(self, name)) is not None:
                parse_size(text, name)
        if self.disk is not None and self.path is None:
            raise ConfigError(f"disk is {self.disk!r} and there is no path: name a directory with path, or remove disk")
        if self.threads < 1:
            raise ConfigError(f"threads is {self.threads}: it must be at least 1")
        if not 1.0 <= self.host_ratio < float("inf"):
            raise ConfigError(
                f"host_ratio is {self.host_ratio}: a tier smaller than the KV cache could not take what it evicts, set "
                "1.0 or more"
            )

    @property
    def memory_bytes(self) -> int | None:
        """`memory` in bytes."""
        return None if self.memory is None else parse_size(self.memory, "memory")

    @property
    def disk_bytes(self) -> int | None:
        """`disk` in bytes."""
        return None if self.disk is None else parse_size(self.disk, "disk")


def parse_size(text: str, name: str) -> int:
    """Return a size such as "8 GiB" in bytes; `name` is its key.

    Raises: ConfigError.
    """
    found = _SIZE.fullmatch(text.strip())
    num_bytes = int(float(found[1]) * _UNITS[found[2]]) if found else 0
    if num_bytes <= 0:
        raise ConfigError(f'{name} is {text!r}: write a size with its unit, such as "8 GiB" or "500 MB"')
    return num_bytes

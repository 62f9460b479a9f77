"""Addresses and settings as the processes of a store tell each other of them."""

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

from prefillshare.store.folders import memory_folder
from prefillshare.store.settings import StoreSettings

_SOCKET = "fetch"
"""Short: a Unix socket's path has at most 107 bytes."""
_PATHS = ("directory", "memory_directory", "secret_file")


def socket_path(settings: StoreSettings) -> Path:
    """Where engines ask their host's process to fetch."""
    return memory_folder(settings.memory_directory, settings.name) / _SOCKET


def split_address(address: str) -> tuple[str, int]:
    """Host and port of "HOST:PORT", which was checked when it was read; "[::1]:80" as well."""
    host, _, port = address.rpartition(":")
    return host.strip("[]"), int(port)


def text_of(settings: StoreSettings) -> str:
    """All settings in one line."""
    told = asdict(settings)
    return json.dumps({name: str(value) if isinstance(value, Path) else value for name, value in told.items()})


def settings_of(text: str) -> StoreSettings:
    """What `text_of` wrote."""
    told: dict[str, Any] = json.loads(text)
    paths = {name: Path(told[name]) for name in _PATHS if told.get(name) is not None}
    return StoreSettings(**{**told, **paths, "peers": tuple(told.get("peers", ()))})

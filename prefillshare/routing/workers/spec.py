"""A worker as the launcher or an operator describes it."""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from yarl import URL

from prefillshare.config.tables import build
from prefillshare.errors import ConfigError

_HEADER_TEXT = re.compile(r"[^\r\n\0]*")
Role = Literal["prefill", "decode", "engine"]
"""An engine computes the prompts of its module itself, and answers whole calls alone."""


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkerSpec:
    """One worker: name, role and addresses."""

    id: str
    """Name of the worker, unique in the deployment."""
    role: Role
    """What the worker does."""
    module: str | None = None
    """Decode module that a decode worker or an engine holds; None for a prefill worker."""
    url: str
    """Address of its HTTP server."""
    bootstrap_host: str | None = None
    """Prefill worker: host of its bootstrap server, as decode workers reach it."""
    bootstrap_port: int | None = None
    """Prefill worker: port of its bootstrap server."""
    kv_events: str | None = None
    """ZeroMQ address at which the worker publishes what its cache stores and evicts; None when it does not."""
    has_store: bool = False
    """Prefill worker, or engine: whether it shares the deployment's store with others that do."""
    can_move: bool = False
    """Whether whoever started it starts it in another role when the router says so."""
    api_key: str | None = field(default=None, repr=False)
    """Key that it wants of the router; None is the one that the router has for all of its workers."""
    fingerprint: str | None = None
    """Prefill module that it serves or was trained on; None leaves it to whoever started it."""

    @property
    def kind(self) -> str:
        """What people call a worker of its role."""
        return "engine" if self.role == "engine" else f"{self.role} worker"

    def __post_init__(self) -> None:
        if (self.role == "prefill") != (self.module is None):
            wanted = "has no module: name its decode module" if self.module is None else "has a module: remove it"
            raise ConfigError(f"{self.role} worker {self.id!r} {wanted}")
        if self.role == "prefill" and (self.bootstrap_host is None or self.bootstrap_port is None):
            raise ConfigError(f"prefill worker {self.id!r} lacks bootstrap_host or bootstrap_port: give both")
        if self.bootstrap_port is not None and not 0 < self.bootstrap_port < 65536:
            raise ConfigError(f"bootstrap_port is {self.bootstrap_port}: it must be between 1 and 65535")
        if self.kv_events is not None and not self.kv_events.startswith(("tcp://", "ipc://")):
            raise ConfigError(
                f"kv_events {self.kv_events!r} is not a ZeroMQ address: use one such as tcp://127.0.0.1:5557"
            )
        if self.api_key is not None and not _HEADER_TEXT.fullmatch(self.api_key):
            raise ConfigError(f"the api_key of {self.kind} {self.id!r} holds a line end: leave it out of the key")
        if not is_server_address(self.url):
            raise ConfigError(
                f"url {self.url!r} is not the address of a server: use one such as http://127.0.0.1:41234"
            )


def is_server_address(text: str) -> bool:
    """Whether `text` is the address of an HTTP server and nothing more."""
    try:
        url = URL(text)
        return url.scheme in ("http", "https") and bool(url.host) and url.path in ("", "/") and not url.query_string
    except ValueError:
        return False


def read_spec(table: Any) -> WorkerSpec:
    """Return the worker that a JSON object describes; keys with null count as absent.

    Raises: ConfigError.
    """
    if not isinstance(table, Mapping):
        raise ConfigError("a worker must be a JSON object with id, role, module and url")
    return build(WorkerSpec, {key: value for key, value in table.items() if value is not None}, "worker")

"""What one router process needs to know, read from a JSON file that only its owner can read."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import orjson

from prefillshare.config.responses import Responses
from prefillshare.config.roles import Roles
from prefillshare.config.router import Router
from prefillshare.config.tables import build
from prefillshare.errors import ConfigError
from prefillshare.naming.alias import AnyAlias
from prefillshare.private_files import judge_private
from prefillshare.routing.workers.spec import WorkerSpec, is_server_address, read_spec

_WILDCARDS = ("0.0.0.0", "::")


@dataclass(frozen=True, slots=True, kw_only=True)
class RouterSettings:
    """One router process."""

    host: str = "127.0.0.1"
    """Address to listen on."""
    port: int = 30000
    """Port to listen on."""
    deployment: str = ""
    """Name of the deployment, for people."""
    base_model: str
    """Name of the prefill module."""
    fingerprint: str | None = None
    """The prefill module itself; workers that announce another one are refused."""
    vocab_size: int | None = None
    """Token ids that the model has; larger ones are refused. Without it only the workers can tell."""
    api_key: str | None = None
    """Key that clients must send; None lets everybody in."""
    admin_key: str | None = None
    """Key for changes of the workers; None allows no changes."""
    address: str | None = None
    """Address at which the other routers reach this one; None is http://HOST:PORT."""
    peers: tuple[str, ...] = ()
    """Addresses of all routers of the deployment, this one's own among them or not; none where there is only one."""
    worker_api_key: str | None = None
    """Key that the workers want from the router."""
    otlp_endpoint: str | None = None
    """OTLP gRPC receiver of traces, such as http://localhost:4317; None makes no traces."""
    max_open_files: int | None = None
    """File descriptors that the process may have; None is no limit. The process finds it out when it starts."""
    eager_answers: bool = True
    """Whether the KV of answers is made before the next prompt comes."""
    router: Router = field(default_factory=Router)
    """How calls are spread."""
    roles: Roles = field(default_factory=Roles)
    """Whether workers change their role with the load."""
    responses: Responses = field(default_factory=Responses)
    """How much of what `/v1/responses` answered is remembered."""
    aliases: dict[str, AnyAlias] = field(default_factory=dict)
    """Other names of decode modules."""
    tenants_file: Path | None = None
    """Who may call beside the operator; None lets everybody with the API key."""
    modules: tuple[str, ...] = ()
    """Decode modules of the deployment file; a call for one without a worker is told to wait, and not that it does not
    exist."""
    aliases_file: Path | None = None
    """File for what has changed about the aliases, for this router's next life; None keeps it nowhere."""
    changes_dir: Path | None = None
    """Folder in which whoever started the workers looks for changes of modules; None where nobody does."""
    workers: tuple[WorkerSpec, ...] = ()
    """Workers at the start; others may join."""

    def __post_init__(self) -> None:
        if not 0 < self.port < 65536:
            raise ConfigError(f"port is {self.port}: it must be between 1 and 65535")
        if self.vocab_size is not None and self.vocab_size < 1:
            raise ConfigError(f"vocab_size is {self.vocab_size}: it must be that of the prefill module")
        self._check_peers()
        seen: set[str] = set()
        for worker in self.workers:
            if worker.id in seen:
                raise ConfigError(f"two workers have the id {worker.id!r}: give each its own")
            seen.add(worker.id)

    @property
    def own_address(self) -> str:
        """Address by which the other routers know this one."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return (self.address or f"http://{host}:{self.port}").rstrip("/")

    @property
    def other_routers(self) -> tuple[str, ...]:
        """Addresses of the other routers, each once."""
        addresses = dict.fromkeys(peer.rstrip("/") for peer in self.peers)
        return tuple(address for address in addresses if address != self.own_address)

    def _check_peers(self) -> None:
        for address in (*self.peers, *([self.address] if self.address else [])):
            if not is_server_address(address):
                raise ConfigError(
                    f"{address!r} is not the address of a router: use one such as http://10.0.0.1:30000, as the others "
                    "reach it"
                )
        if self.peers and self.address is None and self.host in _WILDCARDS:
            raise ConfigError(
                f"{self.host} is no address at which other routers reach this one: give its address beside peers"
            )
        if self.other_routers and self.admin_key is None:
            raise ConfigError("routers know each other by the admin key: give all of them the same admin_key")


def load_settings(file: Path) -> RouterSettings:
    """Return the settings in the JSON file `file`.

    Raises: ConfigError, also when others may read the file or own it, for it holds keys.
    """
    try:
        problem = judge_private(file.stat())
        table = orjson.loads(file.read_bytes())
    except OSError as error:
        raise ConfigError(f"{file} cannot be read ({error.strerror}): give the router's settings file") from None
    except orjson.JSONDecodeError as error:
        raise ConfigError(f"{file} is not JSON: {error}") from None
    if problem:
        raise ConfigError(f"{file} holds keys and {problem}: chown it to you and chmod 600 {file}")
    if not isinstance(table, Mapping):
        raise ConfigError(f"{file} does not hold a JSON object: write one with base_model, port and workers")
    return read_settings(table)


def read_settings(table: Mapping[str, Any]) -> RouterSettings:
    """Return the settings that a JSON object describes; keys with null count as absent.

    Raises: ConfigError.
    """
    given = {key: value for key, value in table.items() if value is not None}
    workers = given.pop("workers", [])
    if not isinstance(workers, list):
        raise ConfigError("workers is not a list: write a list of objects")
    settings = build(RouterSettings, given, "the router's settings", hidden=frozenset({"workers"}))
    return replace(settings, workers=tuple(read_spec(worker) for worker in workers))

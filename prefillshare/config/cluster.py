"""The `[cluster]` table of a deployment file: which nodes of a Ray cluster run what of it."""

import ipaddress
import os
import re
from dataclasses import dataclass, field
from pathlib import Path

from prefillshare.contract import LAST_PORT
from prefillshare.errors import ConfigError

_ADDRESS = re.compile(r"(ray://)?[^\s/:]+:\d{1,5}")
_PORTS = re.compile(r"(\d{1,5})-(\d{1,5})")
ADDRESS_VARIABLE = "PREFILLSHARE_CLUSTER"
MIN_PORTS = 40
"""A node that has fewer cannot give two workers theirs."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Spot:
    """Nodes that processes of one kind may run on."""

    labels: dict[str, str] = field(default_factory=dict)
    """Labels that a node must have, as it got them with `ray start --labels`."""
    gpus: int = 0
    """GPUs that each worker gets to itself."""
    cpus: int = 1
    """CPUs that Ray counts for each."""
    spread: bool = True
    """Whether they go to different nodes as far as there are any, or fill one node first."""

    def __post_init__(self) -> None:
        for name in ("gpus", "cpus"):
            if (value := getattr(self, name)) < 0:
                raise ConfigError(f"{name} is {value}: it must be at least 0")


@dataclass(frozen=True, slots=True, kw_only=True)
class RouterSpot(Spot):
    """Nodes that routers may run on."""

    replicas: int = 1
    """Routers; the first listens on `--port`, each further one on the port after."""

    def __post_init__(self) -> None:
        Spot.__post_init__(self)
        if self.replicas < 1:
            raise ConfigError(f"replicas is {self.replicas}: it must be at least 1")
        if self.gpus:
            raise ConfigError(f"gpus is {self.gpus}, and routers use none: remove it")


@dataclass(frozen=True, slots=True, kw_only=True)
class Cluster:
    """Where a disaggregated deployment runs when that is more than one machine."""

    address: str | None = None
    """Address of the Ray cluster; `--cluster` wins over it."""
    network: str | None = None
    """Network whose address each process listens on, such as 10.77.0.0/24; without it, the one Ray knows the node by.
    """
    ports: str | None = None
    """Ports that processes may take on a node, such as 20000-20999."""
    token_file: Path | None = None
    """File with the cluster's secret, on every node and here, readable by its owner only."""
    api_key_file: Path | None = None
    """File with the key that clients must send, on the routers' nodes and here; without it, the server is open."""
    router: RouterSpot = field(default_factory=RouterSpot)
    """Where routers run, and how many."""
    prefill: Spot = field(default_factory=Spot)
    """Where prefill workers run."""
    decode: Spot = field(default_factory=Spot)
    """Where decode workers run."""

    def __post_init__(self) -> None:
        if self.address is not None:
            check_address(self.address, "address")
        if self.network is not None:
            _check_network(self.network)
        if self.ports is not None:
            parse_ports(self.ports)

    @property
    def known_address(self) -> str | None:
        """Its own address, else that of the variable of the commands that look at a cluster.

        Raises: ConfigError when the variable holds none.
        """
        named = os.environ.get(ADDRESS_VARIABLE)
        if named and self.address is None:
            check_address(named, ADDRESS_VARIABLE)
        return self.address or named or None

    @property
    def own_ports(self) -> range | None:
        """The lower half of `ports`: those of servers, which are chosen before anybody listens there."""
        return None if self.ports is None else (found := parse_ports(self.ports))[: len(found) // 2]

    @property
    def transport_ports(self) -> range | None:
        """The upper half of `ports`: transport of KV takes of them by itself."""
        return None if self.ports is None else (found := parse_ports(self.ports))[len(found) // 2 :]


def check_address(address: str, name: str) -> None:
    """Raises: ConfigError unless `address` can be that of a Ray cluster; `name` is its key or option."""
    if not _ADDRESS.fullmatch(address) or not 0 < int(address.rpartition(":")[2]) <= LAST_PORT:
        raise ConfigError(
            f"{name} is {address!r}: write HOST:PORT of the head from one of its nodes, or ray://HOST:10001 from "
            f"elsewhere, with a port up to {LAST_PORT}"
        )


def parse_ports(text: str) -> range:
    """Return the ports that `text`, such as 20000-20999, names.

    Raises: ConfigError.
    """
    found = _PORTS.fullmatch(text)
    first, last = (int(found[1]), int(found[2])) if found else (0, 0)
    if not 1024 <= first <= last <= LAST_PORT or last - first + 1 < MIN_PORTS:
        raise ConfigError(
            f"ports is {text!r}: write the first and the last of at least {MIN_PORTS}, above 1023, such as "
            '"20000-20999"'
        )
    return range(first, last + 1)


def _check_network(text: str) -> None:
    try:
        ipaddress.ip_network(text)
    except ValueError as error:
        raise ConfigError(f'network is {text!r} ({error}): write one such as "10.77.0.0/24"') from None

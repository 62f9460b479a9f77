"""What a user chooses about a launch beside the deployment file."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from prefillshare.direct import DEFAULT_PORT
from prefillshare.errors import LaunchError

DEFAULT_HOST = "127.0.0.1"
START_TIMEOUT_S = 1800.0
MAX_RESTARTS = 5
RESTART_WINDOW_S = 300.0
"""A process that died more often than it may be started again, within so many seconds, is given up."""

UNTRACED = {"traceparent": f"00-{1:032x}-{1:016x}-00"}
"""The context of a call that makes no trace: W3C's, with the flag `sampled` not set."""

Listener = Callable[[str], None]
"""Hears what people should know: the stage that a start has reached, or an event."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LaunchOptions:
    """How to serve a deployment on this machine."""

    host: str = DEFAULT_HOST
    """Address to listen on."""
    port: int = DEFAULT_PORT
    """Port to listen on."""
    ports: Sequence[int] | None = None
    """Further ports of a worker that others reach come from these; None lets it take any free ones."""
    api_key: str | None = None
    """Key that clients must send; None for an open server."""
    admin_key: str | None = None
    """Key for adding and removing workers of a disaggregated deployment; None lets nobody do it."""
    address: str | None = None
    """Address at which other routers reach this one; None is that it listens on."""
    peers: tuple[str, ...] = ()
    """Addresses of all routers of the deployment; none where there is only one."""
    log_path: Path | None = None
    """File for the engine's log; None is a new one below the user's state directory."""
    extra_args: tuple[str, ...] = ()
    """Further engine arguments; they win over the deployment's."""
    max_restarts: int = MAX_RESTARTS
    """How often a process that died is started again within `RESTART_WINDOW_S`; 0 leaves the dead dead."""
    start_timeout_s: float = START_TIMEOUT_S
    """Seconds after which a start that makes no end counts as failed."""

    def __post_init__(self) -> None:
        for name, key in (("API", self.api_key), ("admin", self.admin_key)):
            if key is not None and (key.startswith("-") or not key.isascii() or not key.isprintable() or " " in key):
                raise LaunchError(
                    f"the {name} key must be printable ASCII without spaces and not start with a dash: choose another"
                )


def auth_header(api_key: str | None) -> dict[str, str]:
    """Return the HTTP header that carries the API key."""
    return {"Authorization": f"Bearer {api_key}"} if api_key else {}

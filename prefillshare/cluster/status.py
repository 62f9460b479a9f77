"""How a member of a deployment stands, as its actor says it and as whoever asked understands its silence."""

from dataclasses import dataclass
from typing import Literal

from prefillshare.cluster.plan import Group

MemberState = Literal["placing", "starting", "running", "restarting", "failed", "left", "moving"]
"""`placing`: no node has room for it yet, or its process comes up. `moving`: its node or process is gone, and Ray
starts it anew. The others are its own words."""


@dataclass(frozen=True, slots=True, kw_only=True)
class MemberStatus:
    """One worker or router of a deployment."""

    name: str
    """What people call it."""
    group: Group | None = None
    """What it does; None while it has not said so."""
    state: MemberState
    """Where it stands."""
    reason: str | None = None
    """Why it failed, in its own words, or why routers do not take it."""
    node: str = ""
    """Host name of its node."""
    node_id: str = ""
    """By what Ray knows its node."""
    url: str = ""
    """Address of its HTTP server."""
    pid: int | None = None
    """Process id of the engine or router; None while it does not run."""
    num_restarts: int = 0
    """How often its process was started again on this node."""
    revision: str = ""
    """What it serves, and how."""
    is_known: bool = False
    """Of a worker: whether every router took it. Of a router: whether it answers."""
    workers: tuple[tuple[str, str], ...] = ()
    """Of a router: its workers with their states."""

    @property
    def is_waiting(self) -> bool:
        """Whether no node has it, as far as anybody knows."""
        return self.state in ("placing", "moving")

    @property
    def number(self) -> int:
        """Which of its group it is."""
        return int(self.name.rpartition("-")[2])


@dataclass(frozen=True, slots=True, kw_only=True)
class LogPiece:
    """Part of a member's log."""

    text: str
    """What it said."""
    file: str
    """The file on its node; another one from before when it was started anew."""
    end: int
    """Offset after it in bytes."""

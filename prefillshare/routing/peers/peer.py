"""Another router, as this one knows it."""

import asyncio
from collections.abc import Iterable
from dataclasses import dataclass, field

from prefillshare.errors import ConfigError
from prefillshare.observe.document import WorkerPhase


@dataclass(frozen=True, slots=True, kw_only=True)
class Load:
    """Calls that a router has at one worker."""

    calls: int
    """How many."""
    tokens: float
    """Tokens that are to be computed for them, estimated."""
    working: int
    """Calls of these that the worker works on; the others wait for another worker."""


NO_LOAD = Load(calls=0, tokens=0.0, working=0)


@dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    """What a router tells another."""

    routers: tuple[str, ...]
    """Addresses of all routers that it knows, its own among them, in order."""
    prefill_module: str
    """Name of the prefill module, and its fingerprint if it knows one."""
    is_draining: bool
    """Whether it takes no further calls."""
    models: tuple[str, ...]
    """Decode modules, and the prefill module, for which it has workers that are up: a new router has none at first."""
    running: int
    """Calls that it has."""
    queued: int
    """Of these, calls that wait for a worker."""
    is_moving: bool
    """Whether it sees a worker into another role: meanwhile no other router decides on moves."""
    aliases: str = ""
    """Digest of what has changed about its aliases; empty while nothing has."""
    at_workers: dict[str, Load] = field(default_factory=dict)
    """By worker the calls that it has there, if any."""

    def as_dict(self) -> dict[str, object]:
        """Return it as JSON has it."""
        return {
            "routers": list(self.routers),
            "prefill_module": self.prefill_module,
            "is_draining": self.is_draining,
            "models": list(self.models),
            "running": self.running,
            "queued": self.queued,
            "is_moving": self.is_moving,
            "aliases": self.aliases,
            "at_workers": {name: [load.calls, load.tokens, load.working] for name, load in self.at_workers.items()},
        }


def read_report(told: object) -> Report:
    """Return the report that a JSON document holds.

    Raises: ConfigError.
    """
    if not isinstance(told, dict):
        raise _foreign()
    try:
        return Report(
            routers=tuple(map(str, told["routers"])),
            prefill_module=str(told["prefill_module"]),
            is_draining=bool(told["is_draining"]),
            models=tuple(map(str, told["models"])),
            running=int(told["running"]),
            queued=int(told["queued"]),
            is_moving=bool(told["is_moving"]),
            aliases=str(told["aliases"]),
            at_workers={
                str(name): Load(calls=int(calls), tokens=float(tokens), working=int(working))
                for name, (calls, tokens, working) in told["at_workers"].items()
            },
        )
    except (KeyError, TypeError, ValueError, AttributeError):
        raise _foreign() from None


def _foreign() -> ConfigError:
    return ConfigError("it answers in another form: install the same version of prefillshare there")


class Peer:
    """One other router; `exchange` keeps its state true."""

    def __init__(self, address: str) -> None:
        self.address = address
        self.state: WorkerPhase = "starting"
        self.reason = "not asked yet"
        self.report: Report | None = None
        self.hurry = asyncio.Event()
        """Set by whoever doubts that it is there: it is asked at once."""
        self.lacks = ""
        """Why it does not take the aliases of this router; empty while it does."""
        self.underway: set[asyncio.Timeout] = set()
        """One for each call that was passed on to it and is not over; ended when the router is found to be gone."""

    @property
    def name(self) -> str:
        """What people are shown."""
        return f"router {self.address.partition('://')[2]}"

    def can_answer(self, model: str) -> bool:
        """Whether calls for `model` may be passed on to it."""
        return self.state == "up" and self.report is not None and model in self.report.models

    @property
    def num_underway(self) -> int:
        """Calls that were passed on to it and are not over."""
        return len(self.underway)

    def cut_off(self) -> None:
        """End all calls that were passed on: nobody hears of the router any more."""
        now = asyncio.get_running_loop().time()
        for limit in self.underway:
            if not limit.expired():
                limit.reschedule(now)


def add_up(peers: Iterable[Peer]) -> dict[str, Load]:
    """Return by worker what all of `peers` have there together."""
    found: dict[str, Load] = {}
    for peer in peers:
        for name, load in (peer.report.at_workers if peer.report else {}).items():
            known = found.get(name, NO_LOAD)
            found[name] = Load(
                calls=known.calls + load.calls,
                tokens=known.tokens + load.tokens,
                working=known.working + load.working,
            )
    return found

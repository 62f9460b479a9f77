"""Keeps the processes of a deployment running: one that died is started again, with back-off, until it is hopeless.

No thread and no timer: whoever owns the deployment calls `step` a few times per second.
"""

import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from prefillshare.errors import LaunchError
from prefillshare.observe.document import Role
from prefillshare.serving.options import MAX_RESTARTS, RESTART_WINDOW_S
from prefillshare.serving.run.process import EngineProcess
from prefillshare.serving.run.progress import find_cause_of_death, find_reason, read_log
from prefillshare.serving.run.record import ProcessRecord, ProcessState

FIRST_DELAY_S = 0.5
MAX_DELAY_S = 30.0
MAX_HELD_S = 2.0
"""Clients of a process that is started again later than this should not wait for it."""


@dataclass(slots=True, kw_only=True)
class Supervised:
    """One process that must run."""

    name: str
    """What people call it, such as decode-math-0."""
    role: Role
    """What it does; when every process of a role is given up, the deployment cannot go on."""
    url: str
    """Address of its HTTP server."""
    module: str | None = None
    """Decode module that it holds, if it holds exactly one."""
    start: Callable[[], EngineProcess]
    """Starts it, on the same ports each time."""
    is_ready: Callable[[], bool]
    """Whether it serves; asked while it starts, must answer within a fraction of a second."""
    let_go: Callable[[], None] = lambda: None
    """Lets go of what is kept for it between two lives; called where the next one is far or never comes."""
    first_delay_s: float = FIRST_DELAY_S
    """Pause before the first new start in seconds; doubled with each death."""
    max_restarts: int = MAX_RESTARTS
    """Deaths within `RESTART_WINDOW_S` after which it is started again; one more and it is given up."""
    log_path: Path | None = None
    """File for what it says, in all of its lives."""
    process: EngineProcess | None = None
    """The running process; None while it waits for its next start."""
    state: ProcessState = "starting"
    """Where it stands."""
    num_restarts: int = 0
    """How often it was started again."""
    last_end: str = ""
    """Why it ended the last time."""
    _deaths: deque[float] = field(default_factory=deque)
    _next_start: float = 0.0

    def begin(self) -> None:
        """Start it for the first time.

        Raises: LaunchError.
        """
        self.process = self.start()

    def step(self, say: Callable[[str], None], now: float) -> None:
        """Look after it once; `say` hears what people should know."""
        if self.state == "failed":
            return
        if self.process is not None:
            self.process.bound_log()
        if self.process is None:
            if now >= self._next_start:
                self._restart(say, now)
        elif self.process.exit_code() is not None:
            self._bury(say, now)
        elif self.state != "running" and self.is_ready():
            if self.state == "restarting":
                say(f"{self.name} is back")
            self.state = "running"

    def record(self) -> ProcessRecord:
        """Return how it stands, for `prefillshare ps`."""
        return ProcessRecord(
            name=self.name,
            role=self.role,
            module=self.module,
            pid=self.process.pid if self.process else None,
            url=self.url,
            state=self.state,
            num_restarts=self.num_restarts,
            log=None if self.log_path is None else str(self.log_path),
        )

    def reason(self) -> str:
        """Return why it ended, in its own words, with the path of its log."""
        if self.process is None:
            return self.last_end or "it could not be started"
        log, code = read_log(self.process.log_path, self.process.log_start), self.process.exit_code()
        ending = f"killed by signal {-code}" if code is not None and code < 0 else f"exit code {code}"
        said = find_cause_of_death(log, code) if self.state == "running" else find_reason(log)
        return f"{said or ending} (log {self.process.log_path})"

    def _bury(self, say: Callable[[str], None], now: float) -> None:
        assert self.process is not None
        # Its log is read before the rest of its group is ended: killed processes only add noise to it.
        reason = self.reason()
        self.process.kill()
        self.process = None
        self._count_death(say, now, reason)

    def _count_death(self, say: Callable[[str], None], now: float, reason: str) -> None:
        # Starts that fail one after the other count however long each of them takes.
        while self.state == "running" and self._deaths and now - self._deaths[0] > RESTART_WINDOW_S:
            self._deaths.popleft()
        self._deaths.append(now)
        self.last_end = reason
        if len(self._deaths) > self.max_restarts:
            self.state = "failed"
            self.let_go()
            say(self._describe_giving_up())
            return
        delay = min(MAX_DELAY_S, self.first_delay_s * 2 ** (len(self._deaths) - 1))
        self.state, self._next_start = "restarting", now + delay
        if delay > MAX_HELD_S:
            self.let_go()
        say(f"{self.name} ended: {reason}; starting it again in {delay:.1f} s")

    def _describe_giving_up(self) -> str:
        if self.max_restarts == 0:
            return f"{self.name} ended and is not started again: {self.last_end}"
        return f"{self.name} died {len(self._deaths)} times in a row and is given up: {self.last_end}"

    def _restart(self, say: Callable[[str], None], now: float) -> None:
        self.num_restarts += 1
        try:
            self.process = self.start()
        except LaunchError as error:
            self._count_death(say, now, str(error))
        else:
            if self.process.lost_log:
                say(f"{self.name} is started again, and what it says is not kept: {self.process.lost_log}")


class Supervisor:
    """All processes of a deployment."""

    def __init__(self, members: list[Supervised], say: Callable[[str], None]) -> None:
        self.members = members
        self._say = say

    def begin(self) -> None:
        """Start all of them at once.

        Raises: LaunchError when one cannot be started; what runs by then is the caller's to kill.
        """
        for member in self.members:
            member.begin()

    def step(self) -> None:
        """Look after every process once."""
        now = time.monotonic()
        for member in self.members:
            member.step(self._say, now)

    def lost_role(self) -> Role | None:
        """Return a role of which every process is given up, so that nothing can be served; None while anything can."""
        kept = {member.role for member in self.members if member.state != "failed"}
        lost = next((member.role for member in self.members if member.role not in kept), None)
        # Engines need no hand-off, and pairs of workers need no engine.
        serves_on = "router" in kept and ("engine" in kept or {"prefill", "decode"} <= kept)
        return None if serves_on else lost

    def kill(self) -> None:
        """End every process at once."""
        for member in self.members:
            if member.process is not None:
                member.process.kill()
            member.let_go()

"""Drives sessions: each call after the answer of the one before, over the context that both made."""

import asyncio
import time
from collections import Counter
from collections.abc import Callable, Mapping
from itertools import pairwise
from typing import Protocol

from prefillshare.bench.drivers.client import CallFailedError, Reply
from prefillshare.bench.records import CallRecord
from prefillshare.bench.systems.base import Target
from prefillshare.bench.workloads.base import Session, Workload

OnCall = Callable[[CallRecord], None]


class Asks(Protocol):
    """What answers the driver's calls."""

    async def ask(self, target: Target, prompt: list[int], num_tokens: int, session: str) -> Reply:
        """Return the answer of exactly `num_tokens` tokens, with its times by the driver's clock.

        Raises: CallFailedError.
        """
        ...


class SessionDriver:
    """Drives the sessions of one run and keeps a record of each call."""

    def __init__(
        self,
        client: Asks,
        targets: Mapping[str, Target],
        workload: Workload,
        on_call: OnCall,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.calls: list[CallRecord] = []
        self.workload = workload
        self._client = client
        self._targets = targets
        self._on_call = on_call
        self._clock = clock
        self._started_at = clock()

    def now_s(self) -> float:
        """Seconds since the start of the run."""
        return self._clock() - self._started_at

    async def run(self, number: int, due_s: float | None = None) -> None:
        """Run session `number`, which was due then; a call that fails ends it."""
        context: list[int] = []
        session = self.workload.sessions[number]
        due = self.now_s() if due_s is None else due_s
        for place in range(len(session.steps)):
            await asyncio.sleep(max(0.0, due - self.now_s()))
            record = await self._call(session, number, place, context, due)
            self.calls.append(record)
            self._on_call(record)
            if record.error is not None or record.end_s is None:
                return
            due = record.end_s + self.workload.think_time_s

    async def _call(self, session: Session, number: int, place: int, context: list[int], due_s: float) -> CallRecord:
        step = session.steps[place]
        record = CallRecord(session=number, step=place, module=step.module, due_s=due_s)
        # The context grows by what the step adds and by the answer; the role stands at the end of this prompt only.
        context += step.added
        prompt = [*context, *step.role]
        record.prompt_tokens = len(prompt)
        try:
            reply = await self._client.ask(self._targets[step.module], prompt, step.output_tokens, f"session-{number}")
        except CallFailedError as error:
            record.error, record.end_s = str(error), self.now_s()
            return record
        self._fill(record, reply)
        context += reply.tokens
        return record

    def _fill(self, record: CallRecord, reply: Reply) -> None:
        record.first_s = reply.times[0] - self._started_at
        record.end_s = reply.times[-1] - self._started_at
        record.gaps_s = _gaps(reply.times)
        record.prompt_tokens = reply.prompt_tokens or record.prompt_tokens
        record.cached_tokens = reply.cached_tokens
        record.handoff_tokens, record.handoff_bytes = reply.handoff_tokens, reply.handoff_bytes
        record.output = reply.tokens


def _gaps(times: list[float]) -> list[float]:
    """Seconds from each token to the next, one less than tokens.

    Where several came together, each has an equal part of the wait for them; those that came with the first, none.
    """
    counts = Counter(times)
    pieces = sorted(counts)
    with_first = [0.0] * (counts[pieces[0]] - 1)
    later = [(after - before) / counts[after] for before, after in pairwise(pieces) for _ in range(counts[after])]
    return with_first + later

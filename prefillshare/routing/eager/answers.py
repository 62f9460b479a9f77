"""The jobs that follow answers: one per session, a bounded number of them, all out of the calls' way."""

import asyncio
import logging
from collections import OrderedDict
from dataclasses import asdict
from weakref import WeakKeyDictionary

from prefillshare.observe.document import EagerJobsState
from prefillshare.routing.eager.continuations import Continuations
from prefillshare.routing.eager.counters import EagerCounters
from prefillshare.routing.eager.job import FAILURES, Ended, Job, Outcome
from prefillshare.routing.eager.prediction import Predictor
from prefillshare.routing.parts import Parts
from prefillshare.routing.workers.worker import Worker

log = logging.getLogger(__name__)

MAX_JOBS = 256
"""Sessions whose jobs wait or run; beyond that the oldest one that waits is dropped: the newest are asked for next."""
SETTLE_S = 0.01
"""From the end of an answer to its job. By then the client has all of it, and a session that goes on at once has."""
LONGEST_S = 30.0
_AT_A_TIME = 2
"""Jobs that one prefill worker is given at a time: one is computed while the next one is asked for."""


class EagerAnswers:
    """Hears of calls, and has the KV of their answers made."""

    def __init__(self, parts: Parts) -> None:
        self.counters = EagerCounters()
        self._parts = parts
        self._continuations = Continuations(parts.client)
        self._predictor = Predictor(parts.settings.router.max_sessions)
        self._loop = asyncio.get_running_loop()
        self._jobs: OrderedDict[str, asyncio.TimerHandle | asyncio.Task[None]] = OrderedDict()
        self._running: set[asyncio.Task[None]] = set()
        self._turns: WeakKeyDictionary[Worker, asyncio.Semaphore] = WeakKeyDictionary()

    def begin_call(self, session: str, module: str) -> None:
        """A call came: it computes what its session's job would, so that is given up at once."""
        self._predictor.note_call(session, module)
        if job := self._jobs.pop(session, None):
            self.counters.cancelled += 1
            job.cancel()

    def end_call(self, ended: Ended) -> None:
        """A call was answered: its job waits for its turn; of one session, only the latest does."""
        if earlier := self._jobs.pop(ended.session, None):
            self.counters.dropped += 1
            earlier.cancel()
        self._make_room()
        # A timer, and a task only where there is something to do: most calls of a busy deployment leave no job.
        self._jobs[ended.session] = self._loop.call_later(SETTLE_S, self._begin, ended)

    @property
    def waiting(self) -> int:
        """Jobs that have not ended yet."""
        return len(self._jobs)

    def as_dict(self) -> EagerJobsState:
        """What became of the jobs, and how many there are."""
        return {**asdict(self.counters), "waiting": self.waiting}  # type: ignore[typeddict-item]

    async def close(self) -> None:
        """Give all jobs up."""
        jobs = list(self._jobs.values())
        for job in jobs:
            job.cancel()
        await asyncio.gather(*(job for job in jobs if isinstance(job, asyncio.Task)), return_exceptions=True)

    def _make_room(self) -> None:
        if len(self._jobs) < MAX_JOBS:
            return
        oldest = next((session for session, job in self._jobs.items() if job not in self._running), None)
        if oldest is not None:
            self.counters.dropped += 1
            self._jobs.pop(oldest).cancel()

    def _begin(self, ended: Ended) -> None:
        """The answer has settled: make a task of what follows it, unless that would end at once."""
        job = Job(self._parts, self._continuations, self._predictor, ended)
        if not self._turn_at(ended.prefill).locked() and (outcome := job.foresee()) is not None:
            del self._jobs[ended.session]
            self._count(outcome)
            return
        self._jobs[ended.session] = self._loop.create_task(self._run(ended, job))

    def _turn_at(self, worker: Worker) -> asyncio.Semaphore:
        turn = self._turns.get(worker)
        if turn is None:
            turn = self._turns[worker] = asyncio.Semaphore(_AT_A_TIME)
        return turn

    async def _run(self, ended: Ended, job: Job) -> None:
        task = asyncio.current_task()
        assert task is not None
        try:
            async with self._turn_at(ended.prefill):
                self._running.add(task)
                self._count(await self._try(ended, job))
        finally:
            self._running.discard(task)
            # A later job of the session may have taken its place.
            if self._jobs.get(ended.session) is task:
                del self._jobs[ended.session]

    async def _try(self, ended: Ended, job: Job) -> Outcome:
        try:
            async with asyncio.timeout(LONGEST_S):
                return await job.run()
        except FAILURES as error:
            log.debug("what follows an answer of session %s was not computed: %s", ended.session, error)
            return "failed"

    def _count(self, outcome: Outcome) -> None:
        counters = self.counters
        match outcome:
            case "dropped":
                counters.dropped += 1
            case "failed":
                counters.failed += 1
            case "done" | "pushed":
                counters.done += 1
                counters.pushed += outcome == "pushed"
            case "nothing":
                pass

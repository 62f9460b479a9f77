"""A router without HTTP: the real pool, sessions, policy, chooser and queues, put together as `routing.parts` does."""

import time
from collections.abc import Collection

from prefillshare.config.router import Router
from prefillshare.routing.choice.admission import Admission
from prefillshare.routing.choice.chooser import Chooser, Pair
from prefillshare.routing.choice.demand import Demand
from prefillshare.routing.choice.policies import make_policy
from prefillshare.routing.choice.sessions import Sessions
from prefillshare.routing.workers.kv_events import Evictions
from prefillshare.routing.workers.open_prompts import OpenPrompt, PrefillTimes, begin_prompt, end_prompt
from prefillshare.routing.workers.pool import WorkerPool
from prefillshare.routing.workers.spec import WorkerSpec
from prefillshare.routing.workers.worker import Worker
from prefillshare.simulation.clock import now_s


class TimedChooser(Chooser):
    """The chooser, with the processor time that it takes: the one figure here that is not simulated."""

    cpu_s = 0.0
    num_choices = 0

    def choose(self, demand: Demand, avoid: Collection[str] = ()) -> Pair | None:
        """Choose as the router does."""
        begin_s = time.process_time()
        try:
            return super().choose(demand, avoid)
        finally:
            self.cpu_s += time.process_time() - begin_s
            self.num_choices += 1


class SimulatedRouter:
    """One router and the workers that it knows, all of them up."""

    def __init__(self, settings: Router, specs: list[WorkerSpec]) -> None:
        self.pool = WorkerPool()
        self.sessions = Sessions(settings.max_sessions)
        self.chooser = TimedChooser(settings, self.pool, make_policy(settings, self.sessions))
        self.admission = Admission(settings, self.pool, self.chooser)
        for spec in specs:
            worker = Worker(spec, settings, clock=now_s)
            self.pool.add(worker)
            worker.set_state("up")

    async def reserve(self, demand: Demand) -> Pair:
        """Return a reserved pair, waiting in the module's queue if need be.

        Raises: RoutingError.
        """
        return await self.admission.acquire(demand)

    def begin_prefill(self, pair: Pair) -> OpenPrompt:
        """Hear that the prefill leg is sent."""
        return begin_prompt(pair.prefill, pair.decode, pair.expected_tokens)

    def end_prefill(
        self,
        demand: Demand,
        pair: Pair,
        prompt: OpenPrompt,
        *,
        prompt_tokens: int,
        computed: int,
        times: PrefillTimes,
    ) -> None:
        """Take in the prefill worker's report and give the worker back."""
        pair.prefill.breaker.record_success()
        self.chooser.learn(demand, pair, prompt_tokens)
        end_prompt(prompt, computed, times)
        self.admission.release(pair.prefill)
        assert pair.decode is not None
        pair.decode.num_decoding += 1

    def end_decode(self, pair: Pair, call_s: float) -> None:
        """Give the decode worker back."""
        assert pair.decode is not None
        pair.decode.num_decoding -= 1
        pair.decode.breaker.record_success()
        self.admission.release(pair.decode, call_s)

    def note_evicted(self, worker: Worker, num_tokens: int) -> None:
        """Hear the worker's KV events: its cache has evicted so much."""
        self.chooser.drop_evicted(worker, Evictions(num_tokens=num_tokens))

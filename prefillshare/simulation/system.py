"""A whole deployment under simulation: routers, prefill and decode workers, and what calls do among them.

Two kinds. `shared`: all prefill workers serve all modules behind one router. `per-module`, the paper's baseline: each
module has its own part of the prefill workers and a router of its own, as separate deployments on the same machines.
"""

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass

from prefillshare.bench.drivers.client import CallFailedError, Reply
from prefillshare.bench.systems.base import Target
from prefillshare.config.router import Router
from prefillshare.errors import SimulationError
from prefillshare.routing.call.prompt import text_prompts
from prefillshare.routing.choice.chooser import Pair
from prefillshare.routing.choice.demand import Demand
from prefillshare.routing.errors import RoutingError
from prefillshare.routing.workers.open_prompts import PrefillTimes
from prefillshare.routing.workers.spec import WorkerSpec
from prefillshare.simulation.accounting import Ideals
from prefillshare.simulation.clock import now_s
from prefillshare.simulation.engine.cores import Cores
from prefillshare.simulation.engine.decode import DecodeWorker
from prefillshare.simulation.engine.kv_pool import TOKEN_BYTES
from prefillshare.simulation.engine.link import Link, hand_off
from prefillshare.simulation.engine.prefill import PrefillWorker
from prefillshare.simulation.model import WorkerModel
from prefillshare.simulation.prompts import encode, make_up_answer
from prefillshare.simulation.router import SimulatedRouter

_URL = "http://127.0.0.1:1"
"""Nobody is asked there: a worker's description has to have an address."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Size:
    """How many workers there are."""

    num_prefill: int
    """Prefill workers."""
    num_decode: int
    """Decode workers, dealt to the modules in turn."""

    @property
    def title(self) -> str:
        """For people, as the paper writes it."""
        return f"{self.num_prefill}P+{self.num_decode}D"

    @property
    def num_workers(self) -> int:
        """All of them."""
        return self.num_prefill + self.num_decode


class SimulatedSystem:
    """Answers calls, as a client of `prefillshare.bench` asks them; must be made inside the loop that runs it."""

    def __init__(
        self,
        *,
        modules: Sequence[str],
        size: Size,
        model: WorkerModel,
        settings: Router,
        is_shared: bool = True,
        eager_min_tokens: int | None = None,
    ) -> None:
        """With `eager_min_tokens`, answers of at least so many tokens are computed ahead when nobody waits."""
        check_size(len(modules), size, is_shared=is_shared)
        self.model = model
        self.handoff_tokens = 0
        self.ideals = Ideals()
        self.cores = Cores(model.machine.cores)
        self.prefill = {f"prefill-{number}": PrefillWorker(model, self.cores) for number in range(size.num_prefill)}
        self.decode = {f"decode-{number}": DecodeWorker(model, self.cores) for number in range(size.num_decode)}
        self._evicted = dict.fromkeys([*self.prefill, *self.decode], 0)
        self._has_events = settings.kv_events
        self._eager_min_tokens = eager_min_tokens
        self._at_router = asyncio.Lock()
        self._background: set[asyncio.Task[None]] = set()
        self.routers = self._make_routers(modules, settings, is_shared)

    async def ask(self, target: Target, prompt: list[int], num_tokens: int, session: str) -> Reply:
        """Answer of `num_tokens` tokens that nobody has generated.

        Raises: CallFailedError when the router refuses the call.
        """
        assert target.model is not None
        prompts = text_prompts({}, prompt)
        data = prompts[0][-TOKEN_BYTES * len(prompt) :]  # without the namespace and the kind before it
        demand = Demand(module=target.model, is_prefill_only=False, prompts=prompts, session=session)
        router, due_s = self.routers[target.model], now_s()
        try:
            pair = await router.reserve(demand)
        except RoutingError as error:
            raise CallFailedError(str(error)) from None
        self.ideals.add(demand.module, data)
        times, num_held, moved = await self._run_legs(router, demand, pair, data, num_tokens)
        router.end_decode(pair, now_s() - due_s)
        answer = make_up_answer(session, len(prompt), num_tokens)
        self._follow_up(router, demand, pair, data, answer)
        return Reply(
            times=times,
            tokens=answer,
            prompt_tokens=len(prompt),
            cached_tokens=num_held,
            handoff_tokens=moved,
            handoff_bytes=moved * self.model.handoff.kv_token_bytes,
        )

    @property
    def links(self) -> list[Link]:
        """Those of all workers."""
        return [*(worker.link for worker in self.prefill.values()), *(worker.link for worker in self.decode.values())]

    async def settle(self) -> None:
        """Wait for what is still computed ahead."""
        while self._background:
            await asyncio.wait(self._background)

    async def _run_legs(
        self, router: SimulatedRouter, demand: Demand, pair: Pair, data: bytes, num_tokens: int
    ) -> tuple[list[float], int, int]:
        """Return when the tokens came, what was cached, and how many tokens were moved."""
        assert pair.decode is not None
        prefill, decode = self.prefill[pair.prefill.id], self.decode[pair.decode.id]
        await self._take_overhead()
        # Both legs are sent at once: room at the decode worker is made while the prompt is computed.
        entering = asyncio.create_task(decode.enter(data, num_tokens))
        open_prompt, sent_s = router.begin_prefill(pair), now_s()
        prefilled = await prefill.prefill(data)
        ready_s = now_s()
        place = await entering
        num_moved = place.num_missing
        await hand_off(self.model.handoff, prefill.link, decode.link, num_moved)
        prefill.release(prefilled)
        num_prompt = place.num_prompt
        times = PrefillTimes(computing_s=ready_s - sent_s, handoff_s=now_s() - ready_s)
        computed = num_prompt - prefilled.num_held
        router.end_prefill(demand, pair, open_prompt, prompt_tokens=num_prompt, computed=computed, times=times)
        self.handoff_tokens += num_moved
        token_times = await decode.decode(place)
        decode.leave(place)
        self._tell_evictions(router, pair)
        return token_times, prefilled.num_held, num_moved

    async def _take_overhead(self) -> None:
        """HTTP, tokenizer and router; where cores are shared, they take them from the engines."""
        overhead_s, call_s = self.model.overhead_s, self.model.machine.call_s if self.cores.are_shared else 0.0
        waited_for_s = min(call_s, overhead_s)
        await asyncio.sleep(overhead_s - waited_for_s)
        if waited_for_s:
            # The router has one thread: of calls that come together, one is through before the other. So sessions that
            # begin together do not go on in step, in the same batches all the time.
            async with self._at_router:
                await self.cores.run(waited_for_s)
        self.cores.spend(call_s - waited_for_s)

    def _tell_evictions(self, router: SimulatedRouter, pair: Pair) -> None:
        """Workers publish what they evict where the deployment says so; the index hears it with their next answer."""
        if not self._has_events:
            return
        for worker in pair.workers:
            pool = (self.prefill if worker.spec.role == "prefill" else self.decode)[worker.id].pool
            if num_tokens := pool.num_evicted - self._evicted[worker.id]:
                self._evicted[worker.id] = pool.num_evicted
                router.note_evicted(worker, num_tokens)

    def _follow_up(self, router: SimulatedRouter, demand: Demand, pair: Pair, data: bytes, answer: list[int]) -> None:
        if self._eager_min_tokens is None or len(answer) < self._eager_min_tokens:
            return
        task = asyncio.create_task(self._compute_ahead(router, demand, pair, data + encode(answer), len(answer)))
        self._background.add(task)
        task.add_done_callback(self._background.discard)

    async def _compute_ahead(
        self, router: SimulatedRouter, demand: Demand, pair: Pair, data: bytes, num_ahead: int
    ) -> None:
        worker = self.prefill[pair.prefill.id]
        worker.release(await worker.prefill(data, is_ahead=True))
        router.chooser.learn_ahead(demand, pair.prefill, num_ahead)

    def _make_routers(self, modules: Sequence[str], settings: Router, is_shared: bool) -> dict[str, SimulatedRouter]:
        specs = {
            module: [_decode_spec(name, module) for name in list(self.decode)[number :: len(modules)]]
            for number, module in enumerate(modules)
        }
        if is_shared:
            every = [_prefill_spec(name) for name in self.prefill] + [spec for some in specs.values() for spec in some]
            return dict.fromkeys(modules, SimulatedRouter(settings, every))
        return {
            module: SimulatedRouter(
                settings, [_prefill_spec(name) for name in list(self.prefill)[number :: len(modules)]] + specs[module]
            )
            for number, module in enumerate(modules)
        }


def check_size(num_modules: int, size: Size, *, is_shared: bool) -> None:
    """Raises: SimulationError unless there are workers enough for each module, `is_shared` or dealt to the modules."""
    if size.num_decode < num_modules or size.num_prefill < 1:
        raise SimulationError(
            f"{size.title} has too few workers: {num_modules} modules need a decode worker each and a prefill worker"
        )
    if not is_shared and size.num_prefill < num_modules:
        raise SimulationError(
            f"{size.title} has too few prefill workers for per-module, which needs one for each of {num_modules} "
            f"modules: give --workers {num_modules}+{size.num_decode} or more, or leave per-module out"
        )


def _prefill_spec(name: str) -> WorkerSpec:
    return WorkerSpec(id=name, role="prefill", url=_URL, bootstrap_host="127.0.0.1", bootstrap_port=1)


def _decode_spec(name: str, module: str) -> WorkerSpec:
    return WorkerSpec(id=name, role="decode", module=module, url=_URL)

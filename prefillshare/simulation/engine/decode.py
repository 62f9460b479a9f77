"""A decode worker: room first, then the KV of the prompt, then one token per step in a batch with the others.

A batch changes only when somebody joins or ends, at the end of a step. Between two changes all steps are taken at once,
so the work of a simulation grows with the calls and not with their tokens.
"""

import asyncio
import math
from collections import deque
from dataclasses import dataclass, field

from prefillshare.simulation.clock import now_s
from prefillshare.simulation.engine.cores import Cores
from prefillshare.simulation.engine.front import Front
from prefillshare.simulation.engine.kv_pool import TOKEN_BYTES, KvPool, Node
from prefillshare.simulation.engine.link import Link
from prefillshare.simulation.model import DecodeModel, WorkerModel


@dataclass(slots=True, eq=False, kw_only=True)
class Place:
    """Room for one call at a decode worker, given back by `DecodeWorker.leave`."""

    prompt: bytes
    """Its prompt."""
    num_output: int
    """Tokens that it will generate."""
    granted: "asyncio.Future[None]"
    """Done when there is room."""
    granted_s: float = 0.0
    """When there was."""
    node: Node | None = None
    num_held: int = 0
    num_reserved: int = 0

    @property
    def num_prompt(self) -> int:
        """Tokens of the prompt."""
        return len(self.prompt) // TOKEN_BYTES

    @property
    def num_missing(self) -> int:
        """Tokens whose KV has to be handed off: x_n is the decode module's own."""
        return max(0, self.num_prompt - 1 - self.num_held)


@dataclass(slots=True, eq=False, kw_only=True)
class _Sequence:
    num_output: int
    num_context: int
    done: "asyncio.Future[None]"
    num_left: int = 0
    times: list[float] = field(default_factory=list)

    def receive(self, times: list[float]) -> None:
        """Take tokens; with the last one, whoever waits for the answer has it."""
        self.times += times
        if len(self.times) == self.num_output:
            self.done.set_result(None)


class DecodeWorker:
    """One decode worker."""

    def __init__(self, model: WorkerModel, cores: Cores) -> None:
        self.pool = KvPool(model.decode.pool_tokens, model.page_size)
        self.link = Link()
        self.busy_s = 0.0
        self.beside_s = 0.0
        """Core seconds that it took beside steps: to take calls in, and to ask for KV that was on its way."""
        self._model = model.decode
        self._wait_share = model.machine.wait_share
        self._front = Front(cores, model.machine) if cores.are_shared else None
        self._cores = cores
        self._waiting: deque[Place] = deque()
        self._joining: deque[_Sequence] = deque()
        self._batch: list[_Sequence] = []
        self._joined = asyncio.Event()
        self._asked_until_s = 0.0
        self._stepping: asyncio.Task[None] | None = None

    async def enter(self, prompt: bytes, num_output: int) -> Place:
        """Return a place when there is room for the call, in the order of arrival."""
        granted = asyncio.get_running_loop().create_future()
        place = Place(prompt=prompt, num_output=num_output, granted=granted)
        self._spend_beside(self._model.beside_s)
        self._waiting.append(place)
        self._let_in()
        await granted
        return place

    async def decode(self, place: Place) -> list[float]:
        """Return when each token came; the KV of the prompt must be there."""
        done = asyncio.get_running_loop().create_future()
        sequence = _Sequence(
            num_output=place.num_output, num_context=place.num_prompt, done=done, num_left=place.num_output
        )
        self._account_wait(place)
        self._joining.append(sequence)
        self._joined.set()
        if self._stepping is None or self._stepping.done():
            self._stepping = asyncio.create_task(self._step_on())
        await done
        return sequence.times

    def leave(self, place: Place) -> None:
        """Keep the prompt's base-made KV for later calls, free the rest."""
        assert place.node is not None
        self.pool.release(place.num_reserved)
        self.pool.insert(place.prompt[: (place.num_prompt - 1) * TOKEN_BYTES])
        self.pool.unlock(place.node)
        self._let_in()

    def _let_in(self) -> None:
        while self._waiting and self._can_enter(self._waiting[0]):
            place = self._waiting.popleft()
            place.granted_s = now_s()
            place.granted.set_result(None)

    def _can_enter(self, place: Place) -> bool:
        node, num_held = self.pool.match(place.prompt[: (place.num_prompt - 1) * TOKEN_BYTES])
        self.pool.lock(node)
        num_reserved = place.num_prompt - num_held + place.num_output
        if not self.pool.reserve(num_reserved):
            self.pool.unlock(node)
            return False
        place.node, place.num_held, place.num_reserved = node, num_held, num_reserved
        return True

    def _account_wait(self, place: Place) -> None:
        """While nothing runs and KV is on its way, a scheduler asks for it again and again, which takes cores."""
        if not self._batch:
            self._spend_beside(self._wait_share * (now_s() - max(place.granted_s, self._asked_until_s)))
        self._asked_until_s = now_s()

    def _spend_beside(self, seconds: float) -> None:
        self._cores.spend(seconds)
        self.beside_s += seconds

    async def _step_on(self) -> None:
        await asyncio.sleep(0)  # whoever comes at the same moment is in the first step, too
        while self._batch or self._joining:
            await self._let_join()
            await self._step()
            self._batch = [sequence for sequence in self._batch if sequence.num_left]
            self._asked_until_s = now_s()

    async def _let_join(self) -> None:
        num_before = len(self._batch)
        while self._joining and len(self._batch) < self._model.max_running:
            self._batch.append(self._joining.popleft())
        self._joined.clear()
        if seconds := self._model.join_s * (len(self._batch) - num_before):
            await self._cores.run(seconds)
            self.busy_s += seconds

    async def _step(self) -> None:
        """Take as many steps as nobody ends or joins in."""
        steps = _Steps.of(self._model, self._batch)
        num_steps = 1 if self._cores.are_shared else min(sequence.num_left for sequence in self._batch)
        begin_s = now_s()
        if self._cores.are_shared:
            await self._cores.run(steps.seconds(1))
        elif not await self._is_undisturbed(steps.seconds(num_steps)):
            # Somebody joins: at the end of the step that is under way.
            num_steps = min(num_steps, steps.count_begun(now_s() - begin_s))
            await asyncio.sleep(max(0.0, begin_s + steps.seconds(num_steps) - now_s()))
        self.busy_s += steps.seconds(num_steps)
        times = [begin_s + steps.seconds(number) for number in range(1, num_steps + 1)]
        for sequence in self._batch:
            sequence.num_left -= num_steps
            sequence.num_context += num_steps
            if self._front is None:
                sequence.receive(times)
            else:
                self._front.send(sequence, num_steps)

    async def _is_undisturbed(self, seconds: float) -> bool:
        """Wait so long; return whether nobody came who could join."""
        if len(self._batch) >= self._model.max_running:
            await asyncio.sleep(seconds)
            return True
        try:
            async with asyncio.timeout(seconds):
                await self._joined.wait()
        except TimeoutError:
            return True
        return False


@dataclass(frozen=True, slots=True, kw_only=True)
class _Steps:
    """Steps of one batch: each is longer than the one before by the tokens that join its KV."""

    first_s: float
    growth_s: float

    @classmethod
    def of(cls, model: DecodeModel, batch: list[_Sequence]) -> "_Steps":
        context = sum(sequence.num_context for sequence in batch)
        first_s = model.step_s + model.sequence_s * len(batch) + model.context_token_s * context
        return cls(first_s=first_s, growth_s=model.context_token_s * len(batch))

    def seconds(self, num_steps: int) -> float:
        """Return the time of the first `num_steps` steps."""
        return num_steps * self.first_s + self.growth_s * num_steps * (num_steps - 1) / 2

    def count_begun(self, seconds: float) -> int:
        """Return how many steps have begun after so long: the last of them may be under way."""
        if not self.growth_s:
            return max(1, math.ceil(seconds / self.first_s))
        half = self.first_s - self.growth_s / 2
        num_steps = math.ceil((math.sqrt(half * half + 2 * self.growth_s * seconds) - half) / self.growth_s)
        return max(1, num_steps)

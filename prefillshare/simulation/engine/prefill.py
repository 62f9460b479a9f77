"""A prefill worker: prompts in the order of their arrival, several to a step, long ones in chunks.

prompt   |-- held --|-- computed chunk by chunk --|
         locked      reserved (private) until its KV is in the tree
"""

import asyncio
from collections import deque
from dataclasses import dataclass

from prefillshare.simulation.engine.cores import Cores
from prefillshare.simulation.engine.kv_pool import TOKEN_BYTES, KvPool, Node
from prefillshare.simulation.engine.link import Link
from prefillshare.simulation.model import WorkerModel


@dataclass(slots=True, eq=False, kw_only=True)
class _Prompt:
    data: bytes
    done: "asyncio.Future[Node]"
    is_ahead: bool = False
    node: Node | None = None
    num_held: int = 0
    num_computed: int = 0
    num_reserved: int = 0

    @property
    def num_tokens(self) -> int:
        return len(self.data) // TOKEN_BYTES

    @property
    def num_missing(self) -> int:
        return self.num_tokens - self.num_held - self.num_computed


@dataclass(frozen=True, slots=True, kw_only=True)
class Prefilled:
    """A prompt whose KV is there, locked until `PrefillWorker.release`."""

    node: Node
    """End of its prefix."""
    num_held: int
    """Tokens that had not to be computed."""


class PrefillWorker:
    """One prefill worker."""

    def __init__(self, model: WorkerModel, cores: Cores) -> None:
        self.pool = KvPool(model.prefill.pool_tokens, model.page_size)
        self.link = Link()
        self.busy_s = 0.0
        self.num_computed = 0
        self.num_computed_ahead = 0
        self._model = model.prefill
        self._cores = cores
        self._waiting: deque[_Prompt] = deque()
        self._ahead: deque[_Prompt] = deque()
        self._begun: list[_Prompt] = []  # at most the last of them has more to compute than a step
        self._stepping: asyncio.Task[None] | None = None

    async def prefill(self, prompt: bytes, *, is_ahead: bool = False) -> Prefilled:
        """Return when the KV of `prompt` is there; what is computed ahead waits until nothing else does."""
        item = _Prompt(data=prompt, done=asyncio.get_running_loop().create_future(), is_ahead=is_ahead)
        (self._ahead if is_ahead else self._waiting).append(item)
        self._wake()
        node = await item.done
        return Prefilled(node=node, num_held=item.num_held)

    def release(self, prefilled: Prefilled) -> None:
        """The KV is where it was wanted: it may be evicted from now on."""
        self.pool.unlock(prefilled.node)
        self._wake()

    def _wake(self) -> None:
        if self._stepping is None or self._stepping.done():
            self._stepping = asyncio.create_task(self._step_on())

    async def _step_on(self) -> None:
        # Whoever comes at the same moment is in the first step, too.
        await asyncio.sleep(0)
        while True:
            self._admit()
            if not self._begun:
                return
            await self._step()

    def _admit(self) -> None:
        """Begin what fits a step and the pool, in the order of arrival: nobody passes one for whom there is no room."""
        budget = self._model.chunk_tokens - sum(item.num_missing for item in self._begun)
        while budget > 0 and self._waiting and self._begin(self._waiting[0]):
            budget -= self._begun[-1].num_missing
            self._waiting.popleft()
        if not self._begun and not self._waiting and self._ahead and self._begin(self._ahead[0]):
            self._ahead.popleft()

    def _begin(self, item: _Prompt) -> bool:
        node, num_held = self.pool.match(item.data)
        self.pool.lock(node)
        # The last token is always computed: its KV alone would be no answer to the engine.
        num_held = min(num_held, item.num_tokens - 1)
        if not self.pool.reserve(item.num_tokens - num_held):
            self.pool.unlock(node)
            return False
        item.node, item.num_held, item.num_reserved = node, num_held, item.num_tokens - num_held
        self._begun.append(item)
        return True

    async def _step(self) -> None:
        budget, seconds = self._model.chunk_tokens, self._model.step_s
        for item in self._begun:
            num_now = min(budget, item.num_missing)
            seconds += 0.0 if item.num_computed else self._model.prompt_s
            before = item.num_held + item.num_computed
            pairs = num_now * before + num_now * num_now / 2
            seconds += self._model.token_s * num_now + self._model.pair_s * pairs
            item.num_computed += num_now
            budget -= num_now
            self.num_computed += num_now
            self.num_computed_ahead += num_now if item.is_ahead else 0
        await self._cores.run(seconds)
        self.busy_s += seconds
        for item in [item for item in self._begun if not item.num_missing]:
            self._end(item)

    def _end(self, item: _Prompt) -> None:
        assert item.node is not None
        self._begun.remove(item)
        self.pool.release(item.num_reserved)
        node = self.pool.insert(item.data)
        self.pool.lock(node)
        self.pool.unlock(item.node)
        item.done.set_result(node)

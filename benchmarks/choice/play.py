"""One measurement: `play.py WORKERS CALLS POLICY` prints its figures as JSON; run by `python -m benchmarks.choice`.

It uses nothing of this package, so that it can measure any working copy that stands first in PYTHONPATH.
"""

import gc
import heapq
import itertools
import json
import random
import sys
import time
import tracemalloc
from collections.abc import Callable, Iterator

from prefillshare.config.router import Router
from prefillshare.routing.choice.chooser import Chooser, Pair
from prefillshare.routing.choice.demand import Demand
from prefillshare.routing.choice.policies import make_policy
from prefillshare.routing.choice.sessions import Sessions
from prefillshare.routing.workers.pool import WorkerPool
from prefillshare.routing.workers.spec import WorkerSpec
from prefillshare.routing.workers.worker import Worker

MODULES = ("math", "code", "tool", "plan")
NUM_TENANTS = 20
SYSTEM_BYTES = 6000
TURN_BYTES = 300
NUM_TURNS = 24
SESSIONS_PER_WORKER = 2
MEAN_TOKENS = 250
TOKENS_PER_S = 8000.0
LOAD = 0.6
NUM_AT_ONCE = 4
INDEX_BYTES = 256 * 1024 * 1024


def make_pool(settings: Router, num_prefill: int, num_decode: int) -> WorkerPool:
    """Return a pool whose workers are all up; each module has as many replicas."""
    pool = WorkerPool()
    for number in range(num_prefill + num_decode):
        is_prefill = number < num_prefill
        module = None if is_prefill else MODULES[number % len(MODULES)]
        spec = WorkerSpec(
            id=f"p{number}" if is_prefill else f"{module}-{number}",
            role="prefill" if is_prefill else "decode",
            module=module,
            url="http://127.0.0.1:1",
            bootstrap_host="127.0.0.1" if is_prefill else None,
            bootstrap_port=1 if is_prefill else None,
        )
        worker = Worker(spec, settings)
        worker.set_state("up")
        pool.add(worker)
    return pool


def make_demands(num_sessions: int) -> Iterator[Demand]:
    """Yield calls without end: sessions in random order, each a turn longer every time, replaced when it is over."""
    chance = random.Random(1)
    systems = [chance.randbytes(SYSTEM_BYTES // 2).hex().encode() for _ in range(NUM_TENANTS)]
    prompts: dict[int, bytes] = {}
    turns: dict[int, int] = {}
    names = [f"session-{number}" for number in range(num_sessions)]
    while True:
        at = chance.randrange(num_sessions)
        if turns.get(at, NUM_TURNS) == NUM_TURNS:
            prompts[at], turns[at] = chance.choice(systems), 0
            names[at] += "+"
        prompts[at] += chance.randbytes(TURN_BYTES // 2).hex().encode()
        module = MODULES[turns[at] % len(MODULES)]
        turns[at] += 1
        yield Demand(module=module, is_prefill_only=False, prompts=(prompts[at],), session=names[at])


class Played:
    """A router without HTTP, in simulated time: workers compute one prompt after the other and are busy for `LOAD`."""

    def __init__(self, num_prefill: int, num_decode: int, policy: str) -> None:
        settings = Router(policy=policy, prefix_index_bytes=INDEX_BYTES)
        self.now = 0.0
        self.pool = make_pool(settings, num_prefill, num_decode)
        for worker in self.pool:
            worker.speed._clock = worker.breaker._clock = lambda: self.now
        self.chooser = Chooser(settings, self.pool, make_policy(settings, Sessions(settings.max_sessions)))
        self.demands = make_demands((num_prefill + num_decode) * SESSIONS_PER_WORKER)
        self.pause_s = MEAN_TOKENS / TOKENS_PER_S / num_prefill / LOAD
        self.speeds = {worker.id: TOKENS_PER_S * random.uniform(0.8, 1.2) for worker in self.pool}
        self.idle_at: dict[str, float] = {}
        self.running: list[tuple[float, int, Demand, Pair, float]] = []
        self.numbers = itertools.count()
        self.choosing_s = 0.0

    def play(self, num_calls: int) -> float:
        """Let so many calls come and go; return the CPU seconds without those of making the prompts."""
        # The clock is read once for several calls: reading it may take longer than a choice does.
        whole_s = self.choosing_s = 0.0
        for _ in range(num_calls // NUM_AT_ONCE):
            demands = list(itertools.islice(self.demands, NUM_AT_ONCE))
            began = time.process_time()
            while self.running and self.running[0][0] <= self.now:
                self.end()
            chosen = time.process_time()
            for demand in demands:
                self.begin(demand)
            ended = time.process_time()
            self.choosing_s += ended - chosen
            whole_s += ended - began
        return whole_s

    def begin(self, demand: Demand) -> None:
        """Give a call its workers."""
        self.now += self.pause_s
        while (pair := self.chooser.choose(demand)) is None:
            self.now = self.running[0][0]
            self.end()
        prefill = pair.prefill
        started = prefill.speed.begin(pair.expected_tokens)
        done_at = max(self.now, self.idle_at.get(prefill.id, 0.0)) + pair.expected_tokens / self.speeds[prefill.id]
        self.idle_at[prefill.id] = done_at
        heapq.heappush(self.running, (done_at, next(self.numbers), demand, pair, started))

    def end(self) -> None:
        """Give back what the call had that ends first, and learn from it."""
        _, _, demand, pair, started = heapq.heappop(self.running)
        pair.prefill.speed.finish(pair.expected_tokens, round(pair.expected_tokens), started)
        for worker in pair.workers:
            worker.breaker.record_success()
            worker.num_running -= 1
        self.chooser.learn(demand, pair, demand.prompt_bytes // 4)


def cpu_ms(do: Callable[[], object]) -> float:
    """Return how long `do` takes."""
    began = time.process_time()
    do()
    return (time.process_time() - began) * 1000


def measure_index(played: Played) -> dict[str, float]:
    """Return what the index takes, and what asking and forgetting cost."""
    index = played.chooser.index
    workers = [worker.id for worker in played.pool]
    prefill = workers[0]
    return {
        "held_ms": cpu_ms(lambda: index.held_bytes(prefill)),
        "state_ms": cpu_ms(lambda: [index.held_bytes(worker) for worker in workers]),
        "drop_ms": cpu_ms(lambda: index.drop(prefill, index.held_bytes(prefill) / 2)),
        "forget_ms": cpu_ms(lambda: index.forget(workers[1])),
    }


def measure_memory(num_prefill: int, num_decode: int, num_calls: int, policy: str) -> dict[str, float]:
    """Return the size of an index that has met so many calls."""
    played = Played(num_prefill, num_decode, policy)
    index = played.chooser.index
    prompts = []
    for demand in itertools.islice(played.demands, num_calls):
        pair = played.chooser.choose(demand)
        assert pair is not None
        prompts.append((demand.prompts[0], pair))
        for worker in pair.workers:
            worker.num_running -= 1
    gc.collect()
    tracemalloc.start()
    for prompt, pair in prompts:
        index.insert(prompt, *(worker.id for worker in pair.workers))
    gc.collect()
    num_bytes, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    nodes = index.tree._recency if hasattr(index, "tree") else index._recency
    num_text = sum(len(node.edge) for node in nodes)
    return {
        "nodes": index.num_nodes,
        "bytes_per_node": num_bytes / index.num_nodes,
        "overhead_per_node": (num_bytes - num_text) / index.num_nodes,
    }


def main(workers: str, num_calls: int, policy: str) -> None:
    """Measure and print."""
    num_prefill, num_decode = map(int, workers.split("+"))
    played = Played(num_prefill, num_decode, policy)
    played.play(max(num_calls, sum((num_prefill, num_decode)) * SESSIONS_PER_WORKER * NUM_TURNS // 4))
    gc.collect()
    gc.freeze()
    whole_s = played.play(num_calls)
    figures = {"calls_per_s": num_calls / played.choosing_s, "whole_per_s": num_calls / whole_s}
    figures |= measure_index(played)
    print(json.dumps(figures | measure_memory(num_prefill, num_decode, num_calls, policy)))


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]), sys.argv[3])

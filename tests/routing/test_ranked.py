"""Choices from lists that are kept up to date, beside those of somebody who looks at every worker each time."""

import random
from collections.abc import Iterator
from dataclasses import replace
from typing import get_args, get_type_hints

import pytest

from prefillshare.config.router import Router
from prefillshare.routing.choice.candidates import make_candidates
from prefillshare.routing.choice.chooser import Chooser, Pair, choose_replica
from prefillshare.routing.choice.demand import Demand
from prefillshare.routing.choice.policies import make_policy
from prefillshare.routing.choice.sessions import Sessions
from prefillshare.routing.errors import UnavailableError
from prefillshare.routing.workers.pool import WorkerPool
from prefillshare.routing.workers.spec import WorkerSpec
from prefillshare.routing.workers.worker import Worker

POLICIES = get_args(get_type_hints(Router)["policy"])
MODULES = ("math", "code")
IDS = [*(f"p{number}" for number in range(8)), *(f"{module}-{number}" for module in MODULES for number in range(4))]
NUM_STEPS = 150
NUM_SEEDS = 24


def random_steps(chance: random.Random) -> Iterator[tuple[str, ...]]:
    """Calls, and all that happens between them: mostly calls that begin and end, on workers that mostly work."""
    kinds = ["call"] * 40 + ["end"] * 24 + ["hold"] * 8 + ["call_other"] * 4
    kinds += ["fail", "recover", "recover", "state", "state", "leave", "join", "join", "wait"]
    for _ in range(NUM_STEPS):
        match kind := chance.choice(kinds):
            case "call":
                yield kind, random_demand(chance)
            case "call_other":
                yield kind, random_demand(chance), frozenset(chance.sample(IDS, chance.randrange(5)))
            case "end":
                yield kind, chance.randrange(8), chance.choice([None, 40, 400, 4000]), chance.choice([0.01, 0.5, 2.0])
            case "hold":
                yield kind, random_prompt(chance), chance.sample(IDS, chance.randint(1, len(IDS)))
            case "state":
                yield kind, chance.choice(IDS), chance.choice(["up", "up", "up", "down", "draining"])
            case "join":
                yield kind, chance.choice(IDS), chance.random() < 0.5
            case "wait":
                yield kind, chance.choice([0.4, 1.1])
            case _:
                yield kind, chance.choice(IDS)


def random_prompt(chance: random.Random) -> bytes:
    """Prompts of one tenant begin alike; there are few of them, so that prompts are met again."""
    tenant, rest = chance.choice([b"s", b"t"]) * 400, [chance.choice([b"a", b"b"]) * 200 for _ in range(4)]
    return tenant + b"".join(rest[: chance.randrange(5)])


def random_demand(chance: random.Random) -> Demand:
    return Demand(
        module=chance.choice(MODULES),
        is_prefill_only=chance.random() < 0.1,
        prompts=tuple(random_prompt(chance) for _ in range(chance.choice([1, 1, 1, 2]))),
        session=chance.choice([None, "a", "b", "c"]),
    )


class Both:
    """A router's choice, and the same by looking at every worker, over the same workers and the same index."""

    def __init__(self, policy: str, has_store: bool = False) -> None:
        self.settings = Router(
            policy=policy, max_running_per_worker=3, breaker_failures=1, breaker_open_s=1.0, repin_margin_s=0.01
        )
        self.now = 0.0
        self.pool = WorkerPool()
        self.chooser = Chooser(self.settings, self.pool, make_policy(self.settings, Sessions(2)))
        self.policy = make_policy(self.settings, Sessions(2))
        self.running: list[tuple[Demand, Pair]] = []
        for number, worker_id in enumerate(IDS):
            self.join(worker_id, has_store=has_store and number % 4 > 0)

    def join(self, worker_id: str, has_store: bool) -> None:
        if self.pool.get(worker_id) is None:
            module = None if worker_id.startswith("p") else worker_id.split("-")[0]
            spec = WorkerSpec(
                id=worker_id,
                role="decode" if module else "prefill",
                module=module,
                url="http://127.0.0.1:1",
                bootstrap_host=None if module else "127.0.0.1",
                bootstrap_port=None if module else 1,
                has_store=has_store and module is None,
            )
            worker = Worker(spec, self.settings, clock=lambda: self.now)
            self.pool.add(worker)
            worker.set_state("up")

    def leave(self, worker_id: str) -> None:
        if worker := self.pool.get(worker_id):
            self.pool.remove(worker)
            self.chooser.index.forget(worker_id)

    def call(self, demand: Demand, avoid: frozenset[str] = frozenset()) -> None:
        expected = self.choose_by_looking(demand, avoid)
        if expected == "error":
            with pytest.raises(UnavailableError):
                self.chooser.choose(demand, avoid)
            return
        pair = self.chooser.choose(demand, avoid)
        assert (pair and [worker.id for worker in pair.workers]) == expected
        if pair is not None:
            pair.prefill.speed.begin(pair.expected_tokens)
            self.running.append((demand, pair))

    def call_other(self, demand: Demand, avoid: set[str]) -> None:
        self.call(demand, frozenset(avoid))

    def choose_by_looking(self, demand: Demand, avoid: frozenset[str]) -> list[str] | str | None:
        prefill = self.find_room([worker for worker in self.pool if worker.spec.module is None], avoid)
        decode = self.find_room([worker for worker in self.pool if worker.spec.module == demand.module], avoid)
        if prefill is None or (decode is None and not demand.is_prefill_only):
            return "error"
        if not prefill or not (decode or demand.is_prefill_only):
            return None
        matched = self.chooser._match(demand, self.chooser._digest(demand))
        chosen = [self.policy.choose(self.chooser._wanted(demand), make_candidates(prefill, matched))]
        if not demand.is_prefill_only:
            chosen.append(choose_replica(make_candidates(decode or [], matched), self.settings.decode_load_slack))
        return chosen

    def find_room(self, workers: list[Worker], avoid: frozenset[str]) -> list[Worker] | None:
        available = [worker for worker in workers if worker.state == "up" and worker.breaker.can_pass]
        if not available:
            return None
        others = [worker for worker in available if worker.id not in avoid]
        return [worker for worker in others or available if worker.num_running < worker.max_running]

    def end(self, number: int, computed: int | None, seconds: float) -> None:
        if number < len(self.running):
            demand, pair = self.running.pop(number)
            started = self.now
            self.now += seconds
            pair.prefill.speed.finish(pair.expected_tokens, computed, started)
            for worker in pair.workers:
                worker.num_running -= 1
                worker.breaker.record_success() if computed else worker.breaker.record_nothing()
            self.chooser.learn(demand, pair, computed)
            self.chooser.learn_ahead(demand, pair.prefill, 3)

    def fail(self, worker_id: str) -> None:
        if worker := self.pool.get(worker_id):
            worker.breaker.record_failure()

    def recover(self, worker_id: str) -> None:
        if worker := self.pool.get(worker_id):
            worker.breaker.record_success()

    def state(self, worker_id: str, state) -> None:
        if worker := self.pool.get(worker_id):
            worker.set_state(state)

    def hold(self, prompt: bytes, workers: set[str]) -> None:
        for worker in sorted(workers):
            self.chooser.index.insert(prompt, worker)

    def wait(self, seconds: float) -> None:
        self.now += seconds


@pytest.mark.parametrize("policy", POLICIES)
@pytest.mark.parametrize("max_few", [1, 4, 32])
def test_choices_are_those_of_somebody_who_looks_at_every_worker(
    policy: str, max_few: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("prefillshare.routing.choice.ranked._MAX_FEW", max_few)
    for seed in range(NUM_SEEDS):
        both = Both(policy, has_store=seed % 2 == 1)
        for action, *arguments in random_steps(random.Random(seed)):
            getattr(both, action)(*arguments)


def test_few_workers_are_looked_at_however_many_there_are(monkeypatch: pytest.MonkeyPatch) -> None:
    both = Both("prefix_aware")
    for number in range(10, 2000):
        both.join(f"p{number}", has_store=False)
    prompt = b"s" * 400
    both.chooser.index.insert(prompt, *(worker.id for worker in both.pool))
    demand = Demand(module="math", is_prefill_only=False, prompts=(prompt + b"t" * 800,), session="s")
    holder = both.pool.get("p1000")
    assert holder is not None
    both.chooser.index.insert(demand.prompts[0], holder.id)
    looked_at: list[str] = []
    for module in ("ranked", "chooser"):
        name = f"prefillshare.routing.choice.{module}.make_candidate"
        monkeypatch.setattr(name, lambda worker, matched: looked_at.append(worker.id) or _see(worker, matched))
    for wait_s, stays in ((0.0, True), (0.1, True), (60.0, False)):
        holder.speed.pending_tokens = 0.0
        holder.speed.begin(wait_s * holder.speed.tokens_per_s)
        for session in ("s", None):
            looked_at.clear()
            chosen = both.chooser.choose(replace(demand, session=session))
            assert chosen is not None
            assert (chosen.prefill is holder) == stays
            assert len(looked_at) < 10
            for worker in chosen.workers:
                worker.num_running -= 1
        both.chooser._policy._sessions.pin("s", holder.id)


def _see(worker: Worker, matched):
    return make_candidates([worker], matched)[0]


def test_modules_are_listed_as_their_workers_joined() -> None:
    both = Both("least_loaded")
    both.leave("math-3")
    both.leave("math-0")
    both.leave("math-1")
    assert both.pool.modules() == ["math", "code"]
    both.leave("math-2")
    assert both.pool.modules() == ["code"]
    assert both.pool.replicas("math") == []
    both.join("math-2", has_store=False)
    assert both.pool.modules() == ["code", "math"]
    assert [worker.id for worker in both.pool.replicas("math")] == ["math-2"]

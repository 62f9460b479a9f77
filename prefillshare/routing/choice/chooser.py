"""The workers for a call: prefill worker by policy, decode replica by load and prefix; or one engine that does both."""

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass

from prefillshare.config.router import Router
from prefillshare.routing.choice.ahead import Ahead
from prefillshare.routing.choice.candidates import STORE, make_candidate, make_candidates, store_of
from prefillshare.routing.choice.demand import Demand
from prefillshare.routing.choice.matched import Matched, add_up
from prefillshare.routing.choice.policies import Candidate, PrefillPolicy, Wanted, WholeCalls
from prefillshare.routing.choice.policies.base import known_bytes, most_calls, typical_calls
from prefillshare.routing.choice.prefix_index import PrefixIndex
from prefillshare.routing.choice.ranked import Ranked
from prefillshare.routing.choice.sessions import Sessions
from prefillshare.routing.errors import UnavailableError
from prefillshare.routing.workers.group import Group
from prefillshare.routing.workers.kv_events import Evictions
from prefillshare.routing.workers.pool import WorkerPool
from prefillshare.routing.workers.worker import Worker

_RATIO_DECAY = 0.9


@dataclass(slots=True, kw_only=True)
class Pair:
    """The workers of one attempt, reserved: each is owed to `Admission.release` when its leg ends."""

    prefill: Worker
    """Worker of the prefill leg, or the engine that does all of it."""
    decode: Worker | None
    """Worker of the decode leg; None for a call that the other one answers alone."""
    matched_bytes: int
    """Prefix of the prompt that the prefill worker holds, by the index."""
    shared_bytes: int = 0
    """For an engine: prefix of the prompt that prefill workers hold, which it has no use for."""
    expected_tokens: float
    """Tokens that the prefill worker will have to compute, estimated."""
    digests: tuple[bytes, ...]
    """By what the index knows the prompts."""

    @property
    def workers(self) -> list[Worker]:
        """Both, or the one that answers alone."""
        return [self.prefill, self.decode] if self.decode else [self.prefill]

    @property
    def is_one_engine(self) -> bool:
        """Whether one engine prefills and decodes."""
        return self.prefill.spec.role == "engine"


class Chooser:
    """Chooses and reserves workers, and remembers what they hold."""

    def __init__(
        self,
        settings: Router,
        pool: WorkerPool,
        policy: PrefillPolicy,
        on_moved: Callable[[str, str, str], None] = lambda *_: None,
    ) -> None:
        """`policy` chooses prefill workers; `on_moved` hears session, old and new engine of sessions that change it."""
        self.index = PrefixIndex(settings.prefix_index_bytes)
        self.bytes_per_token = 4.0
        self._ahead = Ahead(settings.max_sessions)
        self._slack = settings.decode_load_slack
        self._max_sessions = settings.max_sessions
        self._on_moved = on_moved
        self._whole_calls: dict[str, WholeCalls] = {}
        self._pool = pool
        self._policy = policy

    def choose(self, demand: Demand, avoid: Collection[str] = ()) -> Pair | None:
        """Return a reserved pair, or None when all workers that are up have their hands full.

        `avoid` names workers that failed this call before; they are taken only when there is no other.
        Raises: UnavailableError when no prefill worker or no replica of the module is up, or no engine of it.
        """
        groups = self._pool.groups_for(demand.module, is_prefill_only=demand.is_prefill_only)
        # No policy is asked before all kinds have room: it pins sessions and takes turns, for calls that run.
        if avoid or not all(group.find_ready() for group in groups):
            for group in groups:
                _check_available(group, self._name_kind(group, demand), demand.asked)
            return self._choose_other(demand, groups, avoid) if avoid else None
        digests = self._digest(demand)
        matched = self._match(demand, digests)
        first, *others = groups
        fleet = Ranked(first, matched)
        chosen = fleet.worker(self._policy_of(first, demand).choose_from(self._wanted(demand), fleet))
        replica = Ranked(others[0], matched).lightest(self._slack) if others else None
        return self._reserve(demand, first, chosen, replica, matched, digests)

    def learn(self, demand: Demand, pair: Pair, prompt_tokens: int | None) -> None:
        """Note that the workers of `pair` hold the prompts now."""
        # A worker that left while it prefilled, or was replaced by one of the same name, holds nothing for us.
        present = [worker.id for worker in pair.workers if self._pool.get(worker.id) is worker]
        store = [store_of(pair.prefill.spec.module)] if pair.prefill.spec.has_store else []
        for digest in pair.digests if present else ():
            self.index.insert_digest(digest, *present, *store)
        if not pair.is_one_engine:
            self._ahead.forget(demand.session)
        # The tokens are those of all prompts, the bytes those of the indexed ones.
        if prompt_tokens and demand.indexed_share == 1:
            ratio = demand.prompt_bytes / prompt_tokens
            self.bytes_per_token = self.bytes_per_token * _RATIO_DECAY + ratio * (1 - _RATIO_DECAY)

    def learn_ahead(self, demand: Demand, worker: Worker, num_tokens: int) -> None:
        """Note that the prefill worker `worker` holds so many tokens beyond the prompt of `demand`."""
        num_bytes = round(num_tokens * self.bytes_per_token)
        prompt_bytes = sum(self.index.covered(len(prompt)) for prompt in demand.prompts)
        self._ahead.note(demand.session, worker.id, prompt_bytes=prompt_bytes, ahead_bytes=num_bytes)

    def expect_replica(self, demand: Demand, module: str) -> Worker | None:
        """Return the replica of `module` that the call after `demand` will be given to; None when none has room."""
        group = self._pool.replica_group(module)
        if not group.find_ready():
            return None
        return Ranked(group, self._match(demand, self._digest(demand))).lightest(self._slack)

    def learn_push(self, demand: Demand, replica: Worker) -> None:
        """Note that `replica` was sent the prompt of `demand`: of several, it is the one that the next call meets."""
        if self._pool.get(replica.id) is replica:
            for prompt in demand.prompts:
                self.index.insert(prompt, replica.id)

    def forget_store(self) -> None:
        """Note that the deployment's store was emptied."""
        for module in (None, *self._whole_calls):
            self.index.forget(store_of(module))

    def forget(self, worker_id: str) -> None:
        """Note that a worker has left."""
        self.index.forget(worker_id)
        for policy in self._whole_calls.values():
            policy.sessions.forget(worker_id)

    def drop_evicted(self, worker: Worker, found: Evictions) -> None:
        """Note that `worker` holds so much less."""
        if found.is_cleared:
            self.index.forget(worker.id)
        self.index.drop(worker.id, found.num_tokens * self.bytes_per_token)

    def _choose_other(self, demand: Demand, groups: Sequence[Group], avoid: Collection[str]) -> Pair | None:
        """As `choose`, of the others than `avoid` if there are any: rare enough to look at every worker."""
        first, *others = [_find_others(group, avoid) for group in groups]
        if not first or not all(others):
            return None
        digests = self._digest(demand)
        matched = self._match(demand, digests)
        policy = self._policy_of(groups[0], demand)
        chosen = policy.choose(self._wanted(demand), make_candidates(first, matched))
        decode = others[0] if others else []
        replica = _find(decode, choose_replica(make_candidates(decode, matched), self._slack)) if decode else None
        return self._reserve(demand, groups[0], _find(first, chosen), replica, matched, digests)

    def _policy_of(self, group: Group, demand: Demand) -> PrefillPolicy:
        """What chooses of the first group of a call: engines of each module by their own sessions."""
        if group is self._pool.prefill_group:
            return self._policy
        policy = self._whole_calls.get(demand.module)
        if policy is None:
            sessions = Sessions(self._max_sessions, self._on_moved)
            policy = self._whole_calls[demand.module] = WholeCalls(sessions, slack=self._slack)
        return policy

    def _name_kind(self, group: Group, demand: Demand) -> str:
        if group is self._pool.prefill_group:
            return "prefill worker"
        is_engines = group is self._pool.engine_group(demand.module) and bool(group)
        return f"{'engine' if is_engines else 'decode worker'} of {demand.module!r}"

    def _wanted(self, demand: Demand) -> Wanted:
        return Wanted(session=demand.session, prompt_bytes=demand.prompt_bytes, bytes_per_token=self.bytes_per_token)

    def _digest(self, demand: Demand) -> tuple[bytes, ...]:
        return tuple(map(self.index.digest, demand.prompts))

    def _match(self, demand: Demand, digests: Sequence[bytes]) -> Matched:
        """Return how many bytes of all prompts together each worker holds."""
        found = [self.index.find(prompt, digest) for prompt, digest in zip(demand.prompts, digests, strict=True)]
        return self._ahead.add_to(add_up(found), demand)

    def _reserve(
        self,
        demand: Demand,
        group: Group,
        prefill: Worker,
        decode: Worker | None,
        matched: Matched,
        digests: tuple[bytes, ...],
    ) -> Pair:
        """Return the pair, of which `prefill` is of `group`."""
        known = known_bytes(make_candidate(prefill, matched))
        pair = Pair(
            prefill=prefill,
            decode=decode,
            matched_bytes=matched.length_of(prefill.id),
            # Of a large batch, the prompts that are not indexed are taken to be as the others are.
            expected_tokens=(demand.prompt_bytes - known) / self.bytes_per_token / demand.indexed_share,
            digests=digests,
            shared_bytes=0 if group is self._pool.prefill_group else self._find_shared(matched),
        )
        for worker in pair.workers:
            worker.reserve()
        group.note_work(prefill, pair.expected_tokens)
        return pair

    def _find_shared(self, matched: Matched) -> int:
        """How many bytes of the prompts some prefill worker holds, or their store."""
        names = {STORE, *(worker.id for worker in self._pool.prefill_group)}
        return next((length for length, holders in matched.levels if not names.isdisjoint(holders)), 0)


def choose_replica(candidates: Sequence[Candidate], slack: int) -> str:
    """Return the id of the replica that holds the longest prefix among those with little load.

    Little is at most `slack` calls more than the least loaded one has, and what chance adds (`most_calls`): holding the
    prefix saves the transfer of it, which is worth a slightly larger decode batch, but not an uneven load. Of equals
    the least loaded one is taken.
    """
    fewest = min(candidate.num_running for candidate in candidates)
    most = most_calls(fewest, typical_calls(candidates), slack)
    light = [candidate for candidate in candidates if candidate.num_running <= most]
    return max(light, key=lambda candidate: (candidate.matched_bytes, -candidate.num_running)).id


def _check_available(group: Group, what: str, asked: str) -> None:
    """Raise UnavailableError when none of `group` is up, so that waiting for room would be in vain."""
    if not group.is_available:
        states = ", ".join(f"{worker.id} is {_describe_state(worker)}" for worker in group) or "none has joined"
        raise UnavailableError(
            f"model {asked!r} cannot answer now: no {what} is up ({states}); try again later",
            headers={"Retry-After": "2"},
        )


def _find_others(group: Group, avoid: Collection[str]) -> list[Worker]:
    """Return those that can take a call now, of those that are not to be avoided if any of them is up."""
    available = [worker for worker in group if worker.is_available]
    others = [worker for worker in available if worker.id not in avoid]
    return [worker for worker in others or available if worker.has_room]


def _describe_state(worker: Worker) -> str:
    return "failing" if worker.state == "up" else worker.state


def _find(workers: list[Worker], worker_id: str) -> Worker:
    return next(worker for worker in workers if worker.id == worker_id)

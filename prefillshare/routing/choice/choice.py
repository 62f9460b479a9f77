"""The pair of workers for a call: prefill worker by policy, decode replica by load and prefix."""

from collections.abc import Collection, Mapping
from dataclasses import dataclass

from prefillshare.config.router import Router
from prefillshare.routing.call.call import Call
from prefillshare.routing.choice.policies import Candidate, PrefillPolicy, Wanted
from prefillshare.routing.choice.prefix_index import PrefixIndex
from prefillshare.routing.choice.replicas import choose_replica
from prefillshare.routing.errors import UnavailableError
from prefillshare.routing.workers.worker import Worker, WorkerPool

_RATIO_DECAY = 0.9


@dataclass(frozen=True, slots=True, kw_only=True)
class Pair:
    """The workers of one attempt, reserved."""

    prefill: Worker
    """Worker of the prefill leg."""
    decode: Worker | None
    """Worker of the decode leg; None for a call that a prefill worker answers alone."""
    matched_bytes: int
    """Prefix of the prompt that the prefill worker holds, by the index."""
    expected_tokens: float
    """Tokens that the prefill worker will have to compute, estimated."""

    @property
    def workers(self) -> list[Worker]:
        """Both, or the one."""
        return [self.prefill, self.decode] if self.decode else [self.prefill]


class Chooser:
    """Chooses and reserves workers, and remembers what they hold."""

    def __init__(self, settings: Router, pool: WorkerPool, policy: PrefillPolicy) -> None:
        self.index = PrefixIndex(settings.prefix_index_bytes)
        self.bytes_per_token = 4.0
        self._slack = settings.decode_load_slack
        self._pool = pool
        self._policy = policy

    def choose(self, call: Call, avoid: Collection[str] = ()) -> Pair | None:
        """Return a reserved pair, or None when all workers that are up have their hands full.

        `avoid` names workers that failed this call before; they are taken only when there is no other.
        Raises: UnavailableError when no prefill worker or no replica of the module is up.
        """
        prefill = _with_room(self._pool.prefill(), avoid, "prefill worker", call.module)
        decode = [] if call.is_prefill_only else self._replicas(call, avoid)
        if not prefill or not (decode or call.is_prefill_only):
            return None
        matched = self._matched(call)
        wanted = Wanted(session=call.session, prompt_bytes=call.prompt_bytes, bytes_per_token=self.bytes_per_token)
        chosen = self._policy.choose(wanted, _candidates(prefill, matched))
        replica = _by_id(decode, choose_replica(_candidates(decode, matched), self._slack)) if decode else None
        return self._reserved(call, _by_id(prefill, chosen), replica, matched)

    def learn(self, call: Call, pair: Pair, prompt_tokens: int | None) -> None:
        """The workers of `pair` hold the call's prompts now."""
        present = [worker.id for worker in pair.workers if self._pool.get(worker.id) is worker]
        for prompt in call.prompts if present else ():
            self.index.insert(prompt, *present)
        if prompt_tokens:
            ratio = call.prompt_bytes / prompt_tokens
            self.bytes_per_token = self.bytes_per_token * _RATIO_DECAY + ratio * (1 - _RATIO_DECAY)

    def _replicas(self, call: Call, avoid: Collection[str]) -> list[Worker]:
        what = f"decode worker of {call.module!r}"
        return _with_room(self._pool.replicas(call.module), avoid, what, call.module)

    def _matched(self, call: Call) -> dict[str, int]:
        matched: dict[str, int] = {}
        for prompt in call.prompts:
            for worker, length in self.index.match(prompt).items():
                matched[worker] = matched.get(worker, 0) + length
        return matched

    def _reserved(self, call: Call, prefill: Worker, decode: Worker | None, matched: Mapping[str, int]) -> Pair:
        matched_bytes = matched.get(prefill.id, 0)
        pair = Pair(
            prefill=prefill,
            decode=decode,
            matched_bytes=matched_bytes,
            expected_tokens=(call.prompt_bytes - matched_bytes) / self.bytes_per_token,
        )
        for worker in pair.workers:
            worker.reserve()
        return pair


def _with_room(workers: list[Worker], avoid: Collection[str], what: str, module: str) -> list[Worker]:
    available = [worker for worker in workers if worker.is_available]
    if not available:
        states = ", ".join(f"{worker.id} is {_state(worker)}" for worker in workers) or "none has joined"
        raise UnavailableError(
            f"model {module!r} cannot answer now, no {what} is up ({states}): try again later",
            headers={"Retry-After": "2"},
        )
    others = [worker for worker in available if worker.id not in avoid]
    return [worker for worker in others or available if worker.has_room]


def _state(worker: Worker) -> str:
    return "failing" if worker.state == "up" else worker.state


def _candidates(workers: list[Worker], matched: Mapping[str, int]) -> list[Candidate]:
    return [
        Candidate(
            id=worker.id,
            num_running=worker.num_running,
            matched_bytes=matched.get(worker.id, 0),
            wait_s=worker.speed.wait_s,
            tokens_per_s=worker.speed.tokens_per_s,
        )
        for worker in workers
    ]


def _by_id(workers: list[Worker], worker_id: str) -> Worker:
    return next(worker for worker in workers if worker.id == worker_id)

"""Workers as policies see them: in numbers, with what they hold of one call's prompts."""

from collections.abc import Iterable

from prefillshare.routing.choice.matched import Matched
from prefillshare.routing.choice.policies import Candidate
from prefillshare.routing.workers.worker import Worker

STORE = "\0store"
"""Stands in the index for the deployment's store, as if it were a worker; no worker is called so."""


def store_of(module: str | None) -> str:
    """Return what stands in the index for the store as the engines of `module` see it, whose KV is theirs alone; as
    prefill workers see it for None."""
    return STORE if module is None else f"{STORE} {module}"


def make_candidate(worker: Worker, matched: Matched) -> Candidate:
    """Return `worker` as a policy sees it."""
    speed = worker.speed
    return Candidate(
        id=worker.id,
        num_running=worker.load,
        matched_bytes=matched.length_of(worker.id),
        loadable_bytes=matched.length_of(store_of(worker.spec.module)) if worker.spec.has_store else 0,
        wait_s=speed.wait_s,
        tokens_per_s=speed.tokens_per_s,
        recent_tokens=worker.work.tokens,
    )


def make_candidates(workers: Iterable[Worker], matched: Matched) -> list[Candidate]:
    """Return each of `workers` as a policy sees it."""
    return [make_candidate(worker, matched) for worker in workers]

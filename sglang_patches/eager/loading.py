"""What a job's prompt has in the store comes from there before its first slice: it is not computed a second time.

What is to be computed ahead may have lost its beginning: the cache gave it up while the job waited for its turn, or
another prefill worker had computed it. One job loads at a time, and nothing of its load outlasts it: what has come is
in the host tier, and evicted like anything there, so that it takes no room from the loads of calls. Where that happens
before a slice has used it, the slice computes it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from sglang_patches.eager.backlog import Job

if TYPE_CHECKING:
    from sglang.srt.managers.schedule_batch import Req

    from sglang_patches.store.cache import SharedHiRadixCache


class JobLoads:
    """The load of one scheduler's jobs; each rank's begins and ends in the same round, as loads of calls do."""

    def __init__(self, tree: SharedHiRadixCache) -> None:
        self._tree = tree
        self._loading: Job | None = None
        self.num_tokens = 0

    @property
    def job(self) -> Job | None:
        """Who waits for a load."""
        return self._loading

    def begin(self, job: Job, whole: Req) -> bool:
        """Ask the store for what the tree lacks of a request of all of the job's tokens; whether that takes time."""
        assert self._loading is None
        self._tree.prefetch(whole)
        if self._tree.is_loading(job.rid):
            self._loading = job
            return True
        self._tree.release_aborted_request(job.rid)
        return False

    def end(self) -> Job | None:
        """The job whose load has ended since the last round."""
        job = self._loading
        if job is None or not self._tree.check_prefetch_progress(job.rid):
            return None
        self.num_tokens += self._tree.pop_prefetch_loaded_tokens(job.rid)
        self.give_up()
        return job

    def give_up(self) -> None:
        """Nobody waits for it any more."""
        if self._loading is not None:
            self._tree.release_aborted_request(self._loading.rid)
            self._loading = None

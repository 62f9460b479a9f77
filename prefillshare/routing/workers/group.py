"""Workers among which a call has the choice: all prefill workers, or all replicas of one decode module.

Who could take a call now is not found by asking everybody: workers tell their group when they change, and those that
did are looked at once, before the next choice. Only a pause by the breaker ends with time alone, so paused workers are
asked each time; they are few.
"""

from collections.abc import Collection, Iterator

from prefillshare.routing.workers.ranking import Ranking
from prefillshare.routing.workers.recent_work import RecentWork
from prefillshare.routing.workers.worker import Worker


class Group:
    """Workers in the order in which they joined; those that can take a call, in the orders that choices need."""

    def __init__(self, *, ranks_speed: bool) -> None:
        """`ranks_speed` says whether choices ask for more than `by_calls`: of prefill workers they do."""
        self._numbers: dict[str, int] = {}
        self._workers: dict[str, Worker] = {}
        self._changed: dict[str, Worker] = {}
        self._paused: dict[str, Worker] = {}
        self._available: set[str] = set()
        self._ready: dict[str, Worker] = {}
        self.by_turn = Ranking(lambda worker: ())
        """Those that can take a call, in the order in which they joined."""
        self.by_calls = Ranking(lambda worker: (worker.load,))
        """By the calls that they have."""
        self.by_wait = Ranking(lambda worker: (worker.speed.wait_s, worker.load))
        """By how long their work takes, then by calls."""
        self.by_speed = Ranking(
            lambda worker: (-worker.speed.tokens_per_s, worker.speed.wait_s, worker.load),
        )
        """The fastest first, then as in `by_wait`."""
        self.by_work = Ranking(lambda worker: (worker.work.raw,))
        """By what they were given lately."""
        self._work = RecentWork()
        speed = (self.by_wait, self.by_speed, self.by_work) if ranks_speed else ()
        self._rankings = (self.by_calls, *speed)

    def __iter__(self) -> Iterator[Worker]:
        return iter(self._workers.values())

    def __len__(self) -> int:
        return len(self._workers)

    def add(self, worker: Worker, number: int) -> None:
        """Let a worker join, the `number`-th of the pool."""
        self._workers[worker.id] = worker
        self._numbers[worker.id] = number
        worker.work = self._work.join()
        worker.on_changed = self._note
        self._note(worker)

    def remove(self, worker: Worker) -> None:
        """Let a worker leave."""
        worker.on_changed = None
        self._work.leave(worker.work)
        for kept in (self._workers, self._numbers, self._changed, self._paused):
            kept.pop(worker.id, None)
        self._available.discard(worker.id)
        self._take_out(worker)

    @property
    def is_available(self) -> bool:
        """Whether calls may be sent to one of them, now or as soon as it has room."""
        self._look()
        return bool(self._available)

    def find_ready(self) -> dict[str, Worker]:
        """Return those that can take a call now, by id; the rankings hold the same ones until the next change."""
        self._look()
        return self._ready

    def note_work(self, worker: Worker, tokens: float) -> None:
        """Count a call that goes to `worker`, with so many tokens to prefill."""
        is_rescaled = self._work.note(worker.work, tokens)
        self._changed |= self._workers if is_rescaled else {worker.id: worker}

    def _note(self, worker: Worker) -> None:
        self._changed[worker.id] = worker

    def _look(self) -> None:
        """Put every worker that may have changed in its place."""
        if self._changed:
            changed = list(self._changed.values())
            self._changed.clear()
            self._place_all(changed)
        if self._paused:
            self._place_all([worker for worker in self._paused.values() if worker.breaker.can_pass])

    def _place_all(self, workers: Collection[Worker]) -> None:
        for worker in workers:
            self._place(worker)

    def _place(self, worker: Worker) -> None:
        self._paused.pop(worker.id, None)
        if not worker.is_available:
            self._available.discard(worker.id)
            if worker.state == "up":
                self._paused[worker.id] = worker
            self._take_out(worker)
            return
        if worker.id not in self._available:
            self._work.catch_up(worker.work)
            self._available.add(worker.id)
        if not worker.has_room:
            self._take_out(worker)
            return
        number = self._numbers[worker.id]
        if worker.id not in self._ready:
            self._ready[worker.id] = worker
            self.by_turn.put(worker, number)
        for ranking in self._rankings:
            ranking.put(worker, number)

    def _take_out(self, worker: Worker) -> None:
        if self._ready.pop(worker.id, None) is not None:
            for ranking in (self.by_turn, *self._rankings):
                ranking.remove(worker)

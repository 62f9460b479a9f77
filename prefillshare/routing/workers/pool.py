"""The workers that are there, in the order in which they joined."""

from collections.abc import Iterator

from prefillshare.routing.workers.worker import Worker


class WorkerPool:
    """The workers by id, in the order in which they joined."""

    def __init__(self) -> None:
        self._workers: dict[str, Worker] = {}

    def __iter__(self) -> Iterator[Worker]:
        return iter(self._workers.values())

    def __len__(self) -> int:
        return len(self._workers)

    def get(self, worker_id: str) -> Worker | None:
        """Return the worker of that id."""
        return self._workers.get(worker_id)

    def add(self, worker: Worker) -> None:
        """Let a worker join; its id must be new."""
        assert worker.id not in self._workers
        self._workers[worker.id] = worker

    def remove(self, worker: Worker) -> None:
        """Let a worker leave."""
        del self._workers[worker.id]

    def prefill(self) -> list[Worker]:
        """Return the prefill workers."""
        return [worker for worker in self if worker.spec.role == "prefill"]

    def replicas(self, module: str) -> list[Worker]:
        """Return the decode workers that hold `module`."""
        return [worker for worker in self if worker.spec.module == module]

    def warning(self, module: str) -> str | None:
        """Return what its workers say against the answers of `module`; None when they say nothing."""
        warnings = (worker.card.warning for worker in self.replicas(module))
        return next((warning for warning in warnings if warning is not None), None)

    def modules(self) -> list[str]:
        """Return the decode modules that some worker holds, each once."""
        return list(dict.fromkeys(worker.spec.module for worker in self if worker.spec.module is not None))

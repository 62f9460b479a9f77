"""The workers that are there, in the order in which they joined."""

import itertools
from collections.abc import Iterable, Iterator

from prefillshare.routing.workers.group import Group
from prefillshare.routing.workers.worker import Worker

_NOBODY = Group(ranks_speed=False)


class WorkerPool:
    """The workers by id, in the order in which they joined, and in groups of those that can stand for each other."""

    def __init__(self, modules: Iterable[str] = ()) -> None:
        """`modules` are those of the deployment file, which are there although no worker of theirs has come yet."""
        self._declared = dict.fromkeys(modules)
        self._retired: set[str] = set()
        self._workers: dict[str, Worker] = {}
        self._numbers = itertools.count()
        self._modules: dict[str, Group] = {}
        self._names: list[str] | None = None
        self.prefill_group = Group(ranks_speed=True)

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
        self._names = None
        module = worker.spec.module
        if module is not None and module not in self._modules:
            self._modules[module] = Group(ranks_speed=False)
        self._group_of(worker).add(worker, next(self._numbers))

    def remove(self, worker: Worker) -> None:
        """Let a worker leave."""
        del self._workers[worker.id]
        self._names = None
        module = worker.spec.module
        self._group_of(worker).remove(worker)
        if module is not None and not self._modules[module]:
            del self._modules[module]

    def declare(self, module: str) -> None:
        """Let a module be one of the deployment's, whether a worker of it is there or not."""
        self._retired.discard(module)
        self._declared[module] = None
        self._names = None

    def retire(self, module: str) -> None:
        """Let a module be none any more, although workers of it may still have calls."""
        self._retired.add(module)
        self._declared.pop(module, None)
        self._names = None

    def replica_group(self, module: str) -> Group:
        """Return the group of the decode workers that hold `module`; an empty one if none does."""
        return self._modules.get(module, _NOBODY)

    def prefill(self) -> list[Worker]:
        """Return the prefill workers."""
        return list(self.prefill_group)

    def replicas(self, module: str) -> list[Worker]:
        """Return the decode workers that hold `module`."""
        return list(self.replica_group(module))

    def warning(self, module: str) -> str | None:
        """Return what its workers say against the answers of `module`; None when they say nothing."""
        warnings = (worker.card.warning for worker in self.replica_group(module))
        return next((warning for warning in warnings if warning is not None), None)

    def modules(self) -> list[str]:
        """Return the decode modules of the deployment file, then the others that some worker holds, each once."""
        if self._names is None:
            held = (worker.spec.module for worker in self if worker.spec.module is not None)
            names = dict.fromkeys((*self._declared, *held))
            self._names = [name for name in names if name not in self._retired]
        return list(self._names)

    def _group_of(self, worker: Worker) -> Group:
        return self.prefill_group if worker.spec.module is None else self._modules[worker.spec.module]

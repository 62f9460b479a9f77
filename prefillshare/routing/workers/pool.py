"""The workers that are there, in the order in which they joined."""

import itertools
from collections.abc import Collection, Iterable, Iterator

from prefillshare.routing.workers.group import Group
from prefillshare.routing.workers.worker import Worker

_NOBODY = Group(ranks_speed=True)


class WorkerPool:
    """The workers by id, in the order in which they joined, and in groups of those that can stand for each other."""

    def __init__(self, modules: Iterable[str] = ()) -> None:
        """`modules` are those of the deployment file, which are there although no worker of theirs has come yet."""
        self._declared = dict.fromkeys(modules)
        self._retired: set[str] = set()
        self._workers: dict[str, Worker] = {}
        self._numbers = itertools.count()
        self._replicas: dict[str, Group] = {}
        self._engines: dict[str, Group] = {}
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
        self._group_for(worker).add(worker, next(self._numbers))

    def remove(self, worker: Worker) -> None:
        """Let a worker leave."""
        del self._workers[worker.id]
        self._names = None
        group, module = self._group_for(worker), worker.spec.module
        group.remove(worker)
        if module is not None and not group:
            del self._groups_like(worker)[module]

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

    def forget(self, module: str) -> None:
        """Let a module that no worker holds be none any more, until a worker of it comes."""
        self._declared.pop(module, None)
        self._names = None

    def replica_group(self, module: str) -> Group:
        """Return the group of the decode workers that hold `module`; an empty one if none does."""
        return self._replicas.get(module, _NOBODY)

    def engine_group(self, module: str) -> Group:
        """Return the group of the engines that answer calls for `module` alone; an empty one if none does."""
        return self._engines.get(module, _NOBODY)

    def groups_for(self, module: str, *, is_prefill_only: bool = False) -> list[Group]:
        """Return the groups of which a call for `module` needs a worker each.

        Where both engines and decode workers hold it, as while a deployment goes over to a module that shares its
        prompts, the engines answer for as long as one is up.
        """
        engines, replicas = self.engine_group(module), self.replica_group(module)
        if engines and (engines.is_available or not replicas) and not is_prefill_only:
            return [engines]
        return [self.prefill_group] if is_prefill_only else [self.prefill_group, replicas]

    def can_answer(self, module: str) -> bool:
        """Return whether calls for `module` can be answered now, or as soon as there is room."""
        return all(group.is_available for group in self.groups_for(module))

    def prefill(self) -> list[Worker]:
        """Return the prefill workers."""
        return list(self.prefill_group)

    def replicas(self, module: str) -> list[Worker]:
        """Return the decode workers and engines that hold `module`."""
        return [*self.replica_group(module), *self.engine_group(module)]

    def warning(self, module: str) -> str | None:
        """Return what its workers say against the answers of `module`; None when they say nothing."""
        warnings = (worker.card.warning for worker in self.replicas(module))
        return next((warning for warning in warnings if warning is not None), None)

    def modules(self) -> list[str]:
        """Return the decode modules of the deployment file, then the others that some worker holds, each once."""
        if self._names is None:
            held = (worker.spec.module for worker in self if worker.spec.module is not None)
            names = dict.fromkeys((*self._declared, *held))
            self._names = [name for name in names if name not in self._retired]
        return list(self._names)

    def computing_alone(self) -> Collection[str]:
        """Return the modules that have engines: these compute their prompts, and those of calls for no token, too."""
        return self._engines.keys()

    def _group_for(self, worker: Worker) -> Group:
        """The group that a worker is in, or is to be in."""
        if worker.spec.module is None:
            return self.prefill_group
        groups = self._groups_like(worker)
        # An engine is chosen as a prefill worker is, by what it holds and has to do.
        return groups.setdefault(worker.spec.module, Group(ranks_speed=worker.spec.role == "engine"))

    def _groups_like(self, worker: Worker) -> dict[str, Group]:
        return self._engines if worker.spec.role == "engine" else self._replicas

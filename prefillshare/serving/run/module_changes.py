"""Carries out what a router asks its launcher for: decode modules come, are read anew, and go.

Everything is checked before anything changes. Nothing here waits: each change is a generator that `step` goes on with,
beside the supervisor, one change after the other.

    add:    check -> start workers -> they answer -> the router lets them in -> they are up there
    reload: the same with the new files, then as `remove` with the workers of before
    remove: the router drains a worker -> it is ended -> it is forgotten

The router takes no more calls for a module that is to go before it asks for that.
"""

import errno
import json
import logging
import time
from collections.abc import Callable, Generator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, TypeVar

from prefillshare.config.schema import DecodeModule
from prefillshare.errors import ConfigError, LaunchError, ModuleError, PrefillShareError
from prefillshare.modules.added import describe_added, read_added
from prefillshare.modules.deployment import ResolvedDeployment, ResolvedModule, base_of, resolve_module
from prefillshare.serving.options import Listener
from prefillshare.serving.plan.processes import PlannedWorker
from prefillshare.serving.run.launch_ground import LaunchGround
from prefillshare.serving.run.moves import Watch
from prefillshare.serving.run.supervisor import Supervised, Supervisor

log = logging.getLogger(__name__)
T = TypeVar("T")
Steps = Generator[None, None, T]
"""Work that goes on each time that it is stepped, and returns something in the end."""
Wish = Mapping[str, Any]

_UP_TIMEOUT_S = 60.0
"""Longest time in which a router sees that a worker is up which answers."""
_ASK_EVERY_S = 0.3
_KINDS: Mapping[str, str] = {"add": "comes", "reload": "is read anew", "remove": "goes"}


class WishRefusedError(PrefillShareError):
    """A change that cannot be made; nothing has changed."""


@dataclass(slots=True, kw_only=True)
class ModuleChanger:
    """Changes the decode modules of one launch."""

    ground: LaunchGround
    """Its workers."""
    supervisor: Supervisor
    """Looks after their processes."""
    watch: Watch
    """Makes what looks after a worker."""
    say: Listener
    """Hears what people should know."""
    start_timeout_s: float
    """Longest start of a worker."""
    may_begin: Callable[[], bool] = lambda: True
    """Whether no worker is on its way into another role."""
    _steps: Steps[dict[str, Any]] | None = None
    _wish: Wish = field(default_factory=dict)
    _pool: ThreadPoolExecutor = field(default_factory=lambda: ThreadPoolExecutor(1))

    @property
    def is_changing(self) -> bool:
        """Whether a change is on its way."""
        return self._steps is not None

    def step(self) -> None:
        """Go on with the change on its way, or look for one."""
        if self._steps is None:
            self._look()
            return
        try:
            next(self._steps)
        except StopIteration as end:
            self._tell_end({"result": end.value})
        except (WishRefusedError, ConfigError, ModuleError, LaunchError) as error:
            self._tell_failure(str(error), status=_status_of(error.__cause__))
        except OSError as error:  # a disk that is full, files that go while they are read
            self._tell_failure(f"{error.filename or 'a file'}: {error.strerror or error}", status=_status_of(error))
        except Exception as error:  # a change is nothing for which what serves may end
            log.exception("module %r could not be changed", self._wish["name"])
            self._tell_failure(
                f"it failed ({type(error).__name__}: {error}): the launcher's log says where", status=500
            )

    def _look(self) -> None:
        if not self.may_begin() or (file := self.ground.find_wish()) is None:
            return
        self._wish = _take(file)
        self.say(f"module {self._wish['name']!r} {_KINDS[self._wish['kind']]}")
        work = {"add": self._add, "reload": self._reload, "remove": self._remove}[self._wish["kind"]]
        self._steps = work(self._wish)

    def _tell_failure(self, reason: str, *, status: int) -> None:
        self.say(f"module {self._wish['name']!r} stays as it is: {reason}")
        self._tell_end({"error": reason, "status": status})

    def _tell_end(self, told: Mapping[str, object]) -> None:
        self._steps = None
        # A router that was started again knows nothing of it, and nobody waits there.
        self.ground.tell_change({"id": self._wish["id"], **told})

    def _add(self, wish: Wish) -> Steps[dict[str, Any]]:
        spec, started_at = read_added(wish["name"], wish["table"]), time.monotonic()
        module, warnings = yield from self._check(spec)
        yield from self._bring(with_module(self.ground.deployment, module), module)
        return self._describe(module, warnings, started_at)

    def _reload(self, wish: Wish) -> Steps[dict[str, Any]]:
        spec, started_at = self._spec_of(wish["name"]), time.monotonic()
        module, warnings = yield from self._check(spec)
        before = self._workers_of(spec.name)
        yield from self._bring(with_module(self.ground.deployment, module), module)
        yield from self._dismiss(before)
        return self._describe(module, warnings, started_at)

    def _remove(self, wish: Wish) -> Steps[dict[str, Any]]:
        name, deployment = self._spec_of(wish["name"]).name, self.ground.deployment
        kept = tuple(module for module in deployment.modules if module.spec.name != name)
        if not kept:
            raise WishRefusedError(f"module {name!r} is the only one of this deployment: add another one first")
        self.ground.deployment = with_modules(deployment, kept)
        yield from self._dismiss(self._workers_of(name))
        self.say(f"module {name!r} is gone")
        return {"name": name}

    def _describe(self, module: ResolvedModule, warnings: Sequence[str], started_at: float) -> dict[str, Any]:
        told = describe_added(module, warnings, time.monotonic() - started_at)
        self.say(f"module {module.spec.name!r} is served from {module.path} after {told['seconds']:.1f} s")
        return told

    def _spec_of(self, name: str) -> DecodeModule:
        specs = {module.spec.name: module.spec for module in self.ground.deployment.modules}
        if name not in specs:
            raise WishRefusedError(
                f"module {name!r} is that of workers which joined by themselves: stop them, and start them anew with "
                "`prefillshare worker --join`"
            )
        return specs[name]

    def _workers_of(self, name: str) -> list[PlannedWorker]:
        return [planned for planned in self.ground.workers if planned.worker.module == name]

    def _check(self, spec: DecodeModule) -> Steps[tuple[ResolvedModule, list[str]]]:
        # Large weights are read once for their fingerprint, and an adapter may have to be merged.
        base = base_of(self.ground.deployment)
        return (yield from self._elsewhere(lambda: resolve_module(spec, base)))

    def _bring(self, deployment: ResolvedDeployment, module: ResolvedModule) -> Steps[None]:
        """Start the workers of a module and let the router have them; on a failure, none of them is left."""
        planned = self.ground.plan_more(deployment, module.spec.name, module.spec.replicas)
        members = [self.watch(worker) for worker in planned]
        self.ground.add(planned)
        # The router stays the last: members are started in this order after a fork server's end.
        self.supervisor.members[-1:-1] = members
        try:
            for member in members:
                member.begin()
            yield from self._wait_for(members)
            for worker in planned:
                yield from self._let_in(worker)
        except Exception:
            self._end(planned)
            raise
        self.ground.deployment = deployment
        self.ground.note_modules()

    def _wait_for(self, members: Sequence[Supervised]) -> Steps[None]:
        deadline = time.monotonic() + self.start_timeout_s
        while any(member.state != "running" for member in members):
            for member in members:
                if member.num_restarts or member.process is None or member.process.exit_code() is not None:
                    raise WishRefusedError(f"{member.name} did not start: {member.reason()}")
            if time.monotonic() > deadline:
                raise WishRefusedError(f"its workers did not answer within {self.start_timeout_s:.0f} s")
            yield

    def _let_in(self, planned: PlannedWorker) -> Steps[None]:
        deadline = time.monotonic() + _UP_TIMEOUT_S
        while not (yield from self._elsewhere(lambda: self.ground.is_up(planned))):
            if time.monotonic() > deadline:
                raise WishRefusedError(f"the router does not see {planned.worker.name}, which answers: read its log")
            yield from self._pause()

    def _dismiss(self, workers: Sequence[PlannedWorker]) -> Steps[None]:
        """Let calls of these workers end, as long as the router waits for them, then end the workers."""
        for planned in workers:
            while not (yield from self._elsewhere(lambda planned=planned: self.ground.dismiss(planned))):  # type: ignore[misc]
                yield from self._pause()
        self._end(workers)
        self.ground.note_modules()

    def _end(self, workers: Sequence[PlannedWorker]) -> None:
        names = {planned.worker.name for planned in workers}
        gone = [member for member in self.supervisor.members if member.name in names]
        self.supervisor.members[:] = [member for member in self.supervisor.members if member.name not in names]
        self.ground.drop(workers)
        for member in gone:
            if member.process is not None:
                member.process.kill()
            member.let_go()

    def _elsewhere(self, work: Callable[[], T]) -> Steps[T]:
        """Do what may take long beside the supervisor, which goes on."""
        future = self._pool.submit(work)
        while not future.done():
            yield
        return future.result()

    def _pause(self) -> Steps[None]:
        until = time.monotonic() + _ASK_EVERY_S
        while time.monotonic() < until:
            yield


def _status_of(error: BaseException | None) -> int:
    is_full = isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT)
    return 507 if is_full else 400


def with_module(deployment: ResolvedDeployment, module: ResolvedModule) -> ResolvedDeployment:
    """Return the deployment with a module more, or with another version of one.

    Raises: ConfigError.
    """
    modules = {found.spec.name: found for found in deployment.modules} | {module.spec.name: module}
    return with_modules(deployment, tuple(modules.values()))


def with_modules(deployment: ResolvedDeployment, modules: tuple[ResolvedModule, ...]) -> ResolvedDeployment:
    """Return the deployment with these modules.

    Raises: ConfigError.
    """
    config = replace(deployment.config, decode=tuple(module.spec for module in modules))
    return replace(deployment, config=config, modules=modules)


def _take(file: Path) -> Wish:
    wish: Wish = json.loads(file.read_text(encoding="utf-8"))
    file.unlink()
    return wish

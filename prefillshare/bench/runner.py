"""Goes through a plan: starts each system, drives it, keeps every finished run."""

import asyncio
import math
from dataclasses import replace

from prefillshare.bench.deadline import Deadline
from prefillshare.bench.drivers.drive import drive
from prefillshare.bench.drivers.load import Load
from prefillshare.bench.families.base import Listener
from prefillshare.bench.families.changed import apply_changes
from prefillshare.bench.families.factory import make_family
from prefillshare.bench.plan import WARM_UP_TAG, Cell, Plan
from prefillshare.bench.progress import Progress
from prefillshare.bench.records import RunRecord
from prefillshare.bench.reference import check_answers
from prefillshare.bench.store import Store, StoredRun
from prefillshare.bench.systems.base import Running, Setup
from prefillshare.bench.systems.factory import make_systems
from prefillshare.bench.workloads.base import Workload
from prefillshare.bench.workloads.factory import make_workload
from prefillshare.bench.workloads.react import react
from prefillshare.config.schema import Deployment
from prefillshare.errors import BenchError
from prefillshare.modules.fingerprint import geometry
from prefillshare.modules.locate import locate
from prefillshare.modules.manifest import read_manifest

_WARM_UP_TOKENS = 64
_LEAST_RUN_S = 5.0
"""A run that would be cut sooner is left out: it would say nothing."""


class Runner:
    """Runs what a plan still lacks."""

    def __init__(
        self,
        plan: Plan,
        store: Store,
        *,
        tell: Listener = lambda text: None,
        api_key: str | None = None,
        deadline: Deadline | None = None,
    ) -> None:
        self._plan = plan
        self._store = store
        self._systems = {system.name: system for system in make_systems(plan.systems, plan.endpoints, api_key)}
        self._family = make_family(plan.family)
        most = self._family.max_modules
        if most is not None and max(plan.module_counts) > most:
            raise BenchError(
                f"{plan.family} has {most} modules and {max(plan.module_counts)} were asked for: lower --modules"
            )
        self._deployments: dict[int, Deployment] = {}
        self._workloads: dict[tuple[int, str], Workload] = {}
        self._tell = tell
        self._deadline = deadline or Deadline(None)
        self._longest_start_s = 0.0

    @property
    def pending(self) -> list[tuple[Cell, ...]]:
        """Cells that are not finished, by start of a system."""
        groups = (tuple(cell for cell in group if not self._store.has(cell)) for group in self._plan.groups())
        return [group for group in groups if group]

    def num_calls(self) -> int:
        """Calls of all pending cells."""
        return sum(self.workload(cell.num_modules, cell.load).num_calls for group in self.pending for cell in group)

    def run(self, progress: Progress) -> None:
        """Run every pending cell, as far as the deadline allows.

        Effects: each finished run is on disk before the next begins.
        Raises: PrefillShareError when a system cannot be started or asked.
        """
        groups = list(self._plan.groups())
        for group in groups:
            unfinished = tuple(cell for cell in group if not self._store.has(cell))
            if unfinished and self._deadline.left_s > self._longest_start_s + _LEAST_RUN_S:
                self._run_group(unfinished, progress)
            # Only now: the reference would compete with the engine for the machine. Runs of an earlier, interrupted
            # call may have been kept without it.
            if self._deadline.limit_s is None:
                self._check_all(group, progress)
        # Where time is short, runs come first: a comparison with the reference needs nothing but what is kept.
        for group in groups:
            self._check_all(group, progress)

    def shares(self, system: str) -> bool | None:
        """Whether a system prefills once for all modules."""
        return self._systems[system].shares

    def keeps_answers(self, system: str, num_modules: int) -> bool:
        """Whether what modules decode is left in a cache for all of them: a shared system's ICaRus modules do so."""
        if not self.shares(system):
            return False
        manifests = [read_manifest(locate(module)) for module in self.deployment(num_modules).decode]
        return all(manifest is not None and manifest.kv_rule == "all-base" for manifest in manifests)

    def deployment(self, num_modules: int) -> Deployment:
        """What the systems serve."""
        if num_modules not in self._deployments:
            made = self._family.deployment(num_modules, self._tell)
            self._deployments[num_modules] = apply_changes(made, self._plan.changes)
        return self._deployments[num_modules]

    def workload(self, num_modules: int, load: Load) -> Workload:
        """What they are asked under a load."""
        key = (num_modules, load.key)
        if key not in self._workloads:
            deployment = self.deployment(num_modules)
            shape = self._plan.shape_for(load, self._context_length(deployment))
            names = tuple(module.name for module in deployment.decode)
            tokenizer = locate(deployment.prefill) / "tokenizer.json"
            self._workloads[key] = make_workload(self._plan.workload, shape, names, self._plan.file, tokenizer)
        return self._workloads[key]

    def _run_group(self, group: tuple[Cell, ...], progress: Progress) -> None:
        first = group[0]
        system, deployment = self._systems[first.system], self.deployment(first.num_modules)
        progress.stage(f"repeat {first.repeat}, {first.num_modules} modules: starting {system.name}")
        longest = max(self.workload(cell.num_modules, cell.load).longest_prompt() for cell in group)
        setup = Setup(
            deployment=deployment,
            kv_tokens=self._plan.kv_tokens,
            store_memory=self._plan.store_memory,
            log_dir=self._store.log_dir(first),
            longest_call=longest,
        )
        left_s = self._deadline.left_s
        with system.start(setup) as running:
            if left_s < math.inf:
                self._longest_start_s = max(self._longest_start_s, left_s - self._deadline.left_s)
            for cell in group:
                if self._deadline.left_s < _LEAST_RUN_S:
                    return
                record = self._run_cell(cell, running, progress)
                context_length = self._context_length(deployment)
                commands = list(running.commands)
                self._store.put(cell, StoredRun(record=record, commands=commands, context_length=context_length))

    def _run_cell(self, cell: Cell, running: Running, progress: Progress) -> RunRecord:
        workload = self.workload(cell.num_modules, cell.load)
        progress.begin(cell.title)
        record = asyncio.run(
            drive(
                running,
                workload,
                self._warm_up(workload.modules),
                cell.load,
                seed=self._plan.shape.seed,
                on_call=lambda call: progress.call(),
                timeout_s=self._plan.call_timeout_s,
                limit_s=self._run_limit_s(),
            )
        )
        failures = sum(call.error is not None for call in record.calls)
        outcome = f"{record.wall_s:.1f} s" if record.cut_s is None else f"cut after {record.cut_s:.0f} s"
        progress.end(outcome + (f", {failures} calls failed" if failures else ""))
        return record

    def _run_limit_s(self) -> float | None:
        limit_s = min(self._plan.run_limit_s or math.inf, self._deadline.left_s)
        return None if limit_s == math.inf else limit_s

    def _warm_up(self, modules: tuple[str, ...]) -> Workload:
        """A short session that asks every module twice, with a prompt that nothing else has."""
        shape = replace(
            self._plan.shape,
            num_sessions=1,
            start_tokens=_WARM_UP_TOKENS,
            growth_tokens=4,
            output_tokens=(4,),
            turns=2 * len(modules),
            tags=(WARM_UP_TAG,),
        )
        return react(shape, modules)

    def _check_all(self, group: tuple[Cell, ...], progress: Progress) -> None:
        for cell in group:
            if self._store.has(cell) and self._deadline.left_s > 0:
                self._check(cell, progress)

    def _check(self, cell: Cell, progress: Progress) -> None:
        """Compare a kept run's answers with the reference, unless that is done or not wanted of it."""
        if cell.repeat != 1 or not self._plan.num_checked or not self.shares(cell.system):
            return
        run = self._store.get(cell)
        if run.record.fidelity is not None:
            return
        progress.begin(f"{cell.title}: answers beside the reference")
        workload, deployment = self.workload(cell.num_modules, cell.load), self.deployment(cell.num_modules)
        found = check_answers(deployment, workload, run.record, self._plan.num_checked, self._plan.shape.seed)
        run.record.fidelity = found
        self._store.put(cell, run)
        progress.end(f"{found['exact']} of {found['compared']} equal")

    def _context_length(self, deployment: Deployment) -> int:
        known = deployment.engine.context_length
        return known or geometry(locate(deployment.prefill))["rope"]["max_position_embeddings"] or 4096

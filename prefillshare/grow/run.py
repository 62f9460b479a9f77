"""One run of `prefillshare grow`, from a task file to the module.

A run is all or nothing: it keeps nothing until its task is appended to the pool, in one write. Killed before, the
family is what it was, and the same call does the same again; killed after, the next call of the family writes the
module out of the pool.
"""

import hashlib
import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

import torch

from prefillshare.config.growing import GrowTask
from prefillshare.config.training import PROJECTIONS
from prefillshare.errors import TrainingError
from prefillshare.grow.family import Family, GrownTask, record_of
from prefillshare.grow.fit import Data
from prefillshare.grow.material import Material
from prefillshare.grow.pool import append_records, lock_family
from prefillshare.grow.publish import adapter_bytes, check_modules, publish, sha256
from prefillshare.grow.search import Found, Search
from prefillshare.grow.units import put_units_beside
from prefillshare.modules.targets import check_targets
from prefillshare.training.data.prepare import Prepared, prepare
from prefillshare.training.finetune.models import load_tokenizer, locate_base
from prefillshare.training.finetune.publish import identity
from prefillshare.training.model import load_base
from prefillshare.training.progress import Reporter
from prefillshare.training.shard import Document


def grow(directory: Path, task: GrowTask, report: Reporter) -> GrownTask:
    """Teach a family one more task; a family that is not there yet begins with it.

    Effects: appends to the pool of the family in `directory`, and writes the task's module beside it.
    Raises: TrainingError, ModuleError when the task does not fit the family, or the family is not what it was.
    """
    directory.mkdir(parents=True, exist_ok=True)
    with lock_family(directory):
        family = open_family(directory, report)
        if family.task(task.name) is not None:
            raise TrainingError(
                f"the family in {directory} has a task {task.name!r} already, in {family.module(task.name)}: give the "
                "new one another name"
            )
        base = locate_base(task.base)
        _join(family, task, base)
        grown = _learn(family, task, base, report)
        first = () if family.tasks else (family.first_record(),)
        append_records(family.file, family.pool, (*first, record_of(grown)))
        family.add(grown)
        publish(family, grown)
        return grown


def open_family(directory: Path, report: Reporter) -> Family:
    """Read a family and make it whole; the caller holds its lock.

    Effects: writes modules that the pool has and the folder has not.
    Raises: TrainingError when a module was changed, or is not in the pool.
    """
    family = Family(directory)
    if left_out := family.tell_left_out():
        report.say(left_out)
    check_modules(family)
    for task in family.tasks:
        publish(family, task)
    return family


def _join(family: Family, task: GrowTask, base: Path) -> None:
    """Check that the task fits the family, or begin one."""
    now = identity(base)
    if family.identity is None:
        begin(family, base, task.base.hub or base.name, task.targets or PROJECTIONS)
        return
    for key, value in now.items():
        if family.identity[key] != value:
            raise TrainingError(
                f"the family in {family.directory} stands on a base with {key} {family.identity[key][:19]}..., and "
                f"{base} has {value[:19]}...: give the base that it was begun with, or begin another family"
            )
    known = sorted(family.identity["targets"])
    if task.targets is not None and sorted(task.targets) != known:
        raise TrainingError(
            f"task {task.name!r} has targets {', '.join(sorted(task.targets))} and the family in {family.directory} "
            f"has units for {', '.join(known)}: leave targets out, or begin another family"
        )


def begin(family: Family, base: Path, base_name: str, targets: Sequence[str]) -> None:
    """Found a family on a base; its first task stores it.

    Raises: ModuleError when the base has no such layers.
    """
    check_targets(base, targets)
    shapes = _shapes(base, targets)
    family.begin({**identity(base), "base_name": base_name, "targets": list(targets), "shapes": shapes})


def _shapes(base: Path, targets: Sequence[str]) -> dict[str, tuple[int, int]]:
    from accelerate import init_empty_weights
    from transformers import AutoConfig, AutoModelForCausalLM

    with init_empty_weights():
        model = AutoModelForCausalLM.from_config(AutoConfig.from_pretrained(base))
        _, layers = put_units_beside(model, targets)
    return {name: (layer.base.in_features, layer.base.out_features) for name, layer in layers.items()}


def _learn(family: Family, task: GrowTask, base: Path, report: Reporter) -> GrownTask:
    assert family.identity is not None
    prepared = prepare(task.as_training(family.module(task.name)), load_tokenizer(base))
    for line in prepared.report.lines():
        report.say(line)
    dtype = torch.bfloat16 if task.run.dtype == "bf16" else torch.float32
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    prefill = load_base(base, dtype).requires_grad_(False).eval().to(device)
    model, layers = put_units_beside(prefill, family.identity["targets"])
    found = Search(model, layers, family, make_data(prefill, prepared, task), task, report).run()
    return _grown(family, task, found, prepared)


def make_data(prefill: torch.nn.Module, prepared: Prepared, task: GrowTask) -> Data:
    """The batches of a task's rows."""

    def material(rows: Sequence[Sequence[Document]]) -> Material:
        return Material(
            prefill, rows, size=task.batch.size, packed=task.batch.packed, cache_mib=task.growth.kv_cache_mib
        )

    return Data(training=material(prepared.training), held_out=material(prepared.held_out))


def _grown(family: Family, task: GrowTask, found: Found, prepared: Prepared) -> GrownTask:
    figures = {
        "config": asdict(task),
        "data": {
            "origin": prepared.report.origin,
            "num_rows": len(prepared.training),
            "num_held_out": len(prepared.held_out),
            "sha256": _data_sha256(prepared),
        },
        "held_out_loss": found.losses,
    }
    # As the pool gives them back, so that the module is the same whenever it is written.
    figures = json.loads(json.dumps(figures, sort_keys=True, default=str))
    stamp = len(family.tasks) + 1
    draft = GrownTask(name=task.name, stamp=stamp, uses=found.uses, adapter_sha256="", figures=figures)
    content = adapter_bytes(family, draft)
    return GrownTask(name=task.name, stamp=stamp, uses=found.uses, adapter_sha256=sha256(content), figures=figures)


def _data_sha256(prepared: Prepared) -> str:
    digest = hashlib.sha256()
    for row in prepared.training:
        for document in row:
            digest.update(json.dumps([list(map(int, document.tokens)), list(map(float, document.weights))]).encode())
    return f"sha256:{digest.hexdigest()}"

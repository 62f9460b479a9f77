"""A task's module: an ordinary adapter, written out of the pool, with a manifest.

The engine knows one rank per adapter and ignores PEFT's ranks per layer, so the adapter has the rank of the matrix
with the most units; the others are filled up with zeros, which add nothing. Gates are multiplied into B, and alpha
equals the rank, so that the scale is 1.
"""

import hashlib
import json
import shutil
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from prefillshare.errors import TrainingError
from prefillshare.grow.family import Family, GrownTask, count_parameters, count_units, reused_by_task
from prefillshare.grow.pool import sync_directory
from prefillshare.modules.adapter_config import CONFIG_NAME
from prefillshare.modules.adapter_files import WEIGHTS_NAME
from prefillshare.modules.manifest import MANIFEST_NAME, ModuleManifest, write_manifest


def adapter_bytes(family: Family, task: GrownTask) -> bytes:
    """adapter_model.safetensors of a task, the same at every call."""
    from safetensors.torch import save

    tensors: dict[str, Tensor] = {}
    rank = adapter_rank(task)
    for matrix in task.uses:
        units = family.sum_of(task, matrix)
        padding = (0, 0, 0, rank - len(units))
        name = f"base_model.model.{matrix}"
        tensors[f"{name}.lora_A.weight"] = torch.nn.functional.pad(units.incoming, padding).contiguous()
        tensors[f"{name}.lora_B.weight"] = torch.nn.functional.pad(units.outgoing, padding).T.contiguous()
    return save(tensors, metadata={"format": "pt"})


def adapter_rank(task: GrownTask) -> int:
    """Units of the matrix that has the most; at least 1."""
    return max(1, *(use.rank for use in task.uses.values()))


def sha256(content: bytes) -> str:
    return f"sha256:{hashlib.sha256(content).hexdigest()}"


def check_modules(family: Family) -> None:
    """Compare the adapter of every task with what the pool says it is.

    Raises: TrainingError when one was changed, or is not in the pool.
    """
    known = {task.name for task in family.tasks}
    for manifest in sorted(family.directory.glob(f"*/{MANIFEST_NAME}")):
        if manifest.parent.name not in known:
            raise TrainingError(
                f"{manifest.parent} is a module that {family.file.name} does not know: the file was cut short, put "
                f"back a copy of it; or move the folder out of the family, it can still be served"
            )
    for task in family.tasks:
        file = family.module(task.name) / WEIGHTS_NAME
        if file.exists() and (found := sha256(file.read_bytes())) != task.adapter_sha256:
            raise TrainingError(
                f"{file} was changed since task {task.name!r} was grown ({found[:19]}... instead of "
                f"{task.adapter_sha256[:19]}...): remove the folder {file.parent.name}/, and the next run writes it "
                "again from the pool"
            )


def publish(family: Family, task: GrownTask) -> Path:
    """Write the module of a task that the pool holds; one that is there as a whole stays.

    Effects: its directory appears complete or not at all.
    Raises: TrainingError when it cannot be written.
    """
    directory = family.module(task.name)
    if (directory / MANIFEST_NAME).exists() and (directory / WEIGHTS_NAME).exists():
        return directory
    staging = family.directory / f".{task.name}"
    try:
        for leftover in (staging, directory):
            shutil.rmtree(leftover, ignore_errors=True)
        staging.mkdir()
        (staging / WEIGHTS_NAME).write_bytes(adapter_bytes(family, task))
        (staging / CONFIG_NAME).write_text(json.dumps(_config(family, task), indent=2) + "\n", encoding="utf-8")
        write_manifest(staging, _manifest(family, task))
        staging.rename(directory)
        sync_directory(family.directory)
    except OSError as error:
        raise TrainingError(
            f"the module of task {task.name!r} could not be written to {directory} ({error.strerror}); the pool has "
            "it: free some space there and run any `prefillshare grow` of this family"
        ) from None
    return directory


def _config(family: Family, task: GrownTask) -> dict[str, Any]:
    assert family.identity is not None
    rank = adapter_rank(task)
    return {
        "peft_type": "LORA",
        "task_type": "CAUSAL_LM",
        "base_model_name_or_path": family.identity["base_name"],
        "r": rank,
        "lora_alpha": rank,
        "lora_dropout": 0.0,
        "bias": "none",
        "inference_mode": True,
        "target_modules": list(family.identity["targets"]),
    }


def _manifest(family: Family, task: GrownTask) -> ModuleManifest:
    assert family.identity is not None
    grown = {
        "stamp": task.stamp,
        "units": count_units(task.uses),
        "reused_from": reused_by_task(family, task),
        "num_parameters": count_parameters(family.shapes, task.uses),
    }
    return ModuleManifest(
        name=task.name,
        kind="lora",
        objective="cache-conditioned",
        **{key: family.identity[key] for key in ("prefill_fingerprint", "tokenizer_sha256", "chat_template_sha256")},
        data_sha256=task.figures["data"]["sha256"],
        seed=task.figures["config"]["seed"],
        training={**task.figures, "grown": grown},
    )

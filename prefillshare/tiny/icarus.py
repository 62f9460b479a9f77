"""The three tasks as ICaRus modules over a finished tiny-base, by the trainer of `prefillshare train`.

Run: `prefillshare models build tiny-icarus`. A finished module is skipped; a killed run goes on from its checkpoint.
"""

import json
import shutil
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch

from prefillshare.config.training import BaseModel, Batch, Columns, Data, Lora, Optimizer, Run, Training
from prefillshare.errors import TrainingError
from prefillshare.modules.adapter_config import CONFIG_NAME
from prefillshare.modules.adapter_files import WEIGHTS_NAME
from prefillshare.modules.manifest import ModuleManifest, read_manifest, write_manifest
from prefillshare.tiny.chats import write_conversations
from prefillshare.tiny.language.conversations import TASKS
from prefillshare.tiny.language.tasks import TaskName
from prefillshare.tiny.publish import BASE_NAME, write_build_record
from prefillshare.tiny.recipe import IcarusRecipe
from prefillshare.training.finetune.output import RECORD_NAME, check_same_run, config_record
from prefillshare.training.finetune.run import Finetune
from prefillshare.training.memory import keep_freed_memory
from prefillshare.training.progress import Reporter

LOG_STEPS = 5
SAVE_STEPS = 100


@dataclass(frozen=True, slots=True, kw_only=True)
class IcarusPlan:
    """Where the modules are built, and from what."""

    recipe: IcarusRecipe
    """What to make."""
    base: Path
    """Directory of tiny-base."""
    out: Path
    """Directory of the finished modules."""
    work: Path
    """Directory of data, checkpoints and logs."""


class IcarusBuild:
    """One build, task by task."""

    def __init__(self, plan: IcarusPlan, reporter: Reporter) -> None:
        self.plan, self.reporter = plan, reporter

    def run(self) -> None:
        """Make every module that is not there yet.

        Effects: writes the modules into `out`, everything else into `work`; sets torch's number of threads.
        Raises: TrainingError when `work` belongs to another recipe, or `out` holds modules that it knows nothing of.
        """
        for task in TASKS:
            self._check_out(task)
        torch.set_num_threads(self.plan.recipe.num_threads)
        keep_freed_memory()
        data = {task: self._publish(task, self._train(task)) for task in TASKS}
        write_build_record(self.plan.out, {"recipe": _as_json(self.plan.recipe), "data": data})

    def wipe(self) -> None:
        """Effects: deletes `work` and the modules under `out`."""
        shutil.rmtree(self.plan.work, ignore_errors=True)
        for task in TASKS:
            shutil.rmtree(self.plan.out / task, ignore_errors=True)

    def _check_out(self, task: TaskName) -> None:
        if (self.plan.out / task).exists() and not (self.plan.work / task).exists():
            raise TrainingError(
                f"{self.plan.out} already holds a finished {task}: give --fresh to replace it, or another --out"
            )

    def _train(self, task: TaskName) -> ModuleManifest:
        """Train the module of a task, or go on with it; returns what it says about itself."""
        data = self.plan.work / f"{task}.jsonl"
        if not data.exists():
            data.parent.mkdir(parents=True, exist_ok=True)
            write_conversations(data, task, self.plan.recipe.seed, self.plan.recipe.num_conversations[task])
        output = self.plan.work / task
        training = training_of(self.plan.recipe, task, self.plan.base, data, output)
        if (done := read_manifest(output)) is not None:
            check_same_run(done.training["config"], config_record(training), output)
            self.reporter.say(f"{task}: already there")
            return done
        self.reporter.say(f"{task}: starts")
        Finetune(training, self.reporter).run(resume=(output / "run" / RECORD_NAME).exists())
        made = read_manifest(output)
        assert made is not None, "a finished run leaves a manifest"
        return made

    def _publish(self, task: TaskName, manifest: ModuleManifest) -> dict[str, Any]:
        """Store a trained module as the family's others are: in bfloat16, with a manifest that has the recipe.

        Effects: `out/<task>` appears; returns what is known of its data.
        """
        trained, finished = self.plan.work / task, self.plan.out / task
        finished.mkdir(parents=True, exist_ok=True)
        round_adapter(trained / WEIGHTS_NAME, finished / WEIGHTS_NAME)
        config = json.loads((trained / CONFIG_NAME).read_text(encoding="utf-8"))
        text = json.dumps({**config, "base_model_name_or_path": BASE_NAME}, indent=2)
        (finished / CONFIG_NAME).write_text(text + "\n", encoding="utf-8")
        recipe = {"recipe": _as_json(self.plan.recipe), "task": task}
        write_manifest(finished, replace(manifest, name=f"tiny-icarus-{task}", training=recipe))
        return {"sha256": manifest.data_sha256, "num_conversations": self.plan.recipe.num_conversations[task]}


def training_of(recipe: IcarusRecipe, task: TaskName, base: Path, data: Path, output: Path) -> Training:
    """The recipe of a task as a training file would say it."""
    return Training(
        name=f"tiny-icarus-{task}",
        output=output,
        kind="lora",
        objective="icarus",
        seed=recipe.seed,
        base=BaseModel(path=base),
        data=Data(file=data, columns=Columns(messages="messages")),
        batch=Batch(max_tokens=recipe.max_tokens, size=recipe.batch, accumulation=1, packed=False),
        optimizer=Optimizer(learning_rate=recipe.learning_rate, warmup_ratio=recipe.warmup_ratio, beta2=recipe.beta2),
        lora=Lora(rank=recipe.rank, alpha=2 * recipe.rank),
        run=Run(dtype="fp32", save_steps=SAVE_STEPS, keep_checkpoints=1, log_steps=LOG_STEPS),
    )


def round_adapter(trained: Path, finished: Path) -> None:
    """Effects: writes the matrices of `trained` in bfloat16, readable for everybody, as git stores them."""
    from safetensors.torch import load_file, save_file

    tensors = {name: tensor.to(torch.bfloat16) for name, tensor in load_file(trained).items()}
    save_file(tensors, finished, metadata={"format": "pt"})
    finished.chmod(0o644)


def _as_json(recipe: IcarusRecipe) -> dict[str, Any]:
    content: dict[str, Any] = json.loads(json.dumps(asdict(recipe)))
    return content

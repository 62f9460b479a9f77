"""The steps that make the tiny family, in order; each leaves its result on disk and is skipped when it is there.

Run: `prefillshare models build tiny`. Killed at any moment, the next call continues: finished steps are recorded in
steps.json, a training run goes on from its last checkpoint with the same data.
"""

import json
import shutil
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from prefillshare.errors import TrainingError
from prefillshare.modules.manifest import Objective as StatedObjective
from prefillshare.tiny.base_model import new_base
from prefillshare.tiny.data import plan_batches, tokenizer_texts, write_corpus, write_tuning_data
from prefillshare.tiny.language.chatml import END, END_OF_TEXT
from prefillshare.tiny.language.conversations import TASKS
from prefillshare.tiny.language.tasks import TaskName
from prefillshare.tiny.language.tokenizer import train_tokenizer
from prefillshare.tiny.loop import LoopConfig, StepLoss, run_loop
from prefillshare.tiny.probe import probe_accuracy
from prefillshare.tiny.publish import BASE_NAME, write_build_record, write_module_manifest
from prefillshare.tiny.recipe import Schedule, TinyRecipe
from prefillshare.training.batch import batch_of
from prefillshare.training.memory import keep_freed_memory
from prefillshare.training.model import add_adapter, load_base
from prefillshare.training.objective import Objective, cache_conditioned_loss, ordinary_loss
from prefillshare.training.progress import Reporter
from prefillshare.training.shard import Shard, read_shard

if TYPE_CHECKING:
    from tokenizers import Tokenizer

STEPS_NAME = "steps.json"
NUM_PROBES = 64


@dataclass(frozen=True, slots=True, kw_only=True)
class BuildPlan:
    """Where the family is built, and from what."""

    recipe: TinyRecipe
    """What to make."""
    out: Path
    """Directory of the finished modules."""
    work: Path
    """Directory of data, checkpoints and logs."""
    scale: float = 1.0
    """Factor on the length of every training run; below 1 for a quick try."""


class TinyBuild:
    """One build, step by step."""

    def __init__(self, plan: BuildPlan, reporter: Reporter) -> None:
        self.plan, self.reporter = plan, reporter
        self._steps_path = plan.work / STEPS_NAME
        self._record: dict[str, Any] = {}

    def run(self) -> None:
        """Make everything that is not there yet.

        Effects: writes the modules into `out`, everything else into `work`; sets torch's number of threads.
        Raises: TrainingError when `work` belongs to another recipe.
        """
        self._open()
        torch.set_num_threads(self.plan.recipe.num_threads)
        keep_freed_memory()
        for name, step in self.steps().items():
            self._run_step(name, step)
        write_build_record(self.plan.out, self._record)

    def steps(self) -> dict[str, Callable[[], dict[str, Any]]]:
        """All steps by name, in order."""
        steps: dict[str, Callable[[], dict[str, Any]]] = {
            "tokenizer": self._make_tokenizer,
            "corpus": self._make_corpus,
            "base": self._make_base,
        }
        for task in TASKS:
            steps[f"{task} data"] = partial(self._make_tuning_data, task)
            steps[task] = partial(self._make_module, task)
        for task in TASKS:
            steps[f"naive {task}"] = partial(self._make_naive, task)
        return steps

    def _open(self) -> None:
        self.plan.work.mkdir(parents=True, exist_ok=True)
        wanted = json.loads(json.dumps({"recipe": asdict(self.plan.recipe), "scale": self.plan.scale}))
        self._record = {**wanted, "steps": {}}
        if self._steps_path.exists():
            stored = json.loads(self._steps_path.read_text())
            _check_same_recipe({key: stored[key] for key in wanted}, wanted, self.plan.work)
            self._record = stored
        self._save()

    def _save(self) -> None:
        partial = self._steps_path.with_name("partial-steps.json")
        partial.write_text(json.dumps(self._record, indent=2) + "\n")
        partial.rename(self._steps_path)

    def _run_step(self, name: str, step: Callable[[], dict[str, Any]]) -> None:
        if name in self._record["steps"]:
            self.reporter.say(f"{name}: already there")
            return
        self.reporter.say(f"{name}: starts")
        started = time.monotonic()
        figures = step()
        seconds = round(time.monotonic() - started, 1)
        self._record["steps"][name] = {**figures, "seconds": seconds}
        self._save()
        self.reporter.say(f"{name}: done in {seconds:.0f} s")

    def _make_tokenizer(self) -> dict[str, Any]:
        size = train_tokenizer(tokenizer_texts(self.plan.recipe), self.plan.recipe.vocab_size, self._base_dir)
        return {"vocab_size": size}

    def _make_corpus(self) -> dict[str, Any]:
        shard = write_corpus(
            self.plan.recipe, self._load_tokenizer(), self._length(self.plan.recipe.base), self._data("corpus")
        )
        return _figures(shard)

    def _make_base(self) -> dict[str, Any]:
        tokenizer, recipe = self._load_tokenizer(), self.plan.recipe
        model = new_base(
            recipe.model,
            tokenizer.get_vocab_size(),
            tokenizer.token_to_id(END),
            tokenizer.token_to_id(END_OF_TEXT),
            recipe.seed,
        )
        data = read_shard(self._data("corpus"))
        self._train("base", model, ordinary_loss, data, recipe.base)
        model.save_pretrained(self._base_dir)
        write_module_manifest(
            self._base_dir, self._base_dir, "tiny-base", "language-modelling", data, recipe, recipe.base
        )
        return {"num_parameters": sum(parameter.numel() for parameter in model.parameters())}

    def _make_tuning_data(self, task: TaskName) -> dict[str, Any]:
        length = self._length(self.plan.recipe.tuning)
        shard = write_tuning_data(self.plan.recipe, self._load_tokenizer(), task, length, self._data(task))
        return _figures(shard)

    def _make_module(self, task: TaskName) -> dict[str, Any]:
        return self._tune(task, task, "cache-conditioned", cache_conditioned_loss)

    def _make_naive(self, task: TaskName) -> dict[str, Any]:
        return self._tune(f"naive/{task}", task, "full-ft", ordinary_loss)

    def _tune(self, name: str, task: TaskName, stated: StatedObjective, objective: Objective) -> dict[str, Any]:
        recipe, data = self.plan.recipe, read_shard(self._data(task))
        model = add_adapter(load_base(self._base_dir), recipe.lora, BASE_NAME, recipe.seed)
        self._train(name, model, objective, data, recipe.tuning)
        directory = self.plan.out / name
        model.save_pretrained(directory, save_embedding_layers=False)
        (directory / "README.md").unlink(missing_ok=True)
        own_name = f"tiny-{name.replace('/', '-')}"
        write_module_manifest(directory, self._base_dir, own_name, stated, data, recipe, recipe.tuning)
        return self._probe(model, task)

    def _train(
        self,
        name: str,
        model: torch.nn.Module,
        objective: Objective,
        data: Shard,
        schedule: Schedule,
    ) -> None:
        lengths = [int(length) for length in data.starts[1:] - data.starts[:-1]]
        plan = plan_batches(lengths, schedule.batch_tokens, self.plan.recipe.seed)
        num_steps = _num_steps(plan, lengths, self._length(schedule))
        model.train()

        def step_loss(step: int) -> StepLoss:
            batch = batch_of(data, plan[step])
            return StepLoss(objective(model, batch), batch.num_tokens)

        loop = _loop_config(schedule, num_steps)
        run_loop(name, model.named_parameters(), step_loss, loop, self.plan.work / name, self.reporter)

    def _probe(self, model: torch.nn.Module, task: TaskName) -> dict[str, float]:
        """Share of a few held-out answers that equal the reference; a first look, not the evaluation."""
        model.eval()
        found = probe_accuracy(model, self._load_tokenizer(), task, self.plan.recipe.seed, NUM_PROBES)
        self.reporter.say(f"{task}: {found['shared']:.0%} over the base's KV, {found['own']:.0%} over its own")
        return {f"probe_{name}": accuracy for name, accuracy in found.items()}

    def _length(self, schedule: Schedule) -> int:
        return max(1, round(schedule.num_tokens * self.plan.scale))

    @property
    def _base_dir(self) -> Path:
        return self.plan.out / "base"

    def _data(self, name: str) -> Path:
        return self.plan.work / f"{name}.npz"

    def _load_tokenizer(self) -> "Tokenizer":
        from tokenizers import Tokenizer

        return Tokenizer.from_file(str(self._base_dir / "tokenizer.json"))


def check_out(plan: BuildPlan) -> None:
    """Refuse to build over finished modules that another build left.

    Raises: TrainingError when `out` holds weights and `work` does not know of them.
    """
    if (plan.out / "base" / "model.safetensors").exists() and not (plan.work / STEPS_NAME).exists():
        raise TrainingError(f"{plan.out} already holds a finished family: give --fresh to replace it, or another --out")


def wipe(plan: BuildPlan) -> None:
    """Forget everything that a build made in these directories.

    Effects: deletes `work` and the modules under `out`.
    """
    shutil.rmtree(plan.work, ignore_errors=True)
    for name in ("base", *TASKS, "naive"):
        shutil.rmtree(plan.out / name, ignore_errors=True)


def _check_same_recipe(stored: dict[str, Any], wanted: dict[str, Any], work: Path) -> None:
    if stored != wanted:
        raise TrainingError(f"{work} holds a build of another recipe: give --fresh to start over, or another --out")


def _num_steps(plan: list[list[int]], lengths: list[int], num_tokens: int) -> int:
    """Steps of the plan until `num_tokens` tokens are seen."""
    seen = 0
    for step, indices in enumerate(plan):
        seen += sum(lengths[index] for index in indices)
        if seen >= num_tokens:
            return step + 1
    return len(plan)


def _loop_config(schedule: Schedule, num_steps: int) -> LoopConfig:
    shared = asdict(schedule)
    del shared["num_tokens"], shared["batch_tokens"]
    return LoopConfig(num_steps=num_steps, **shared)


def _figures(shard: Shard) -> dict[str, Any]:
    return {"num_documents": len(shard), "num_tokens": len(shard.tokens), "sha256": shard.sha256()}

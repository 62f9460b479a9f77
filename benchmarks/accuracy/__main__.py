"""Accuracy of cache-conditioned modules beside ordinary fine-tuning and naive sharing, on the tiny family.

Run: `make bench-accuracy`; ARGS="--seeds 1 --tasks tool --kinds lora,icarus" measures a part. Four ways of training per
task and seed: ordinary fine-tuning of all weights, cache-conditioned fine-tuning of all weights and of an adapter, and
an adapter over KV that is all the base's (ICaRus), with equal data and steps. Held-out problems are decoded by the
reference computation at several sharing ratios; an ordinary module over the base's KV is naive sharing. Every finished
training and measurement is kept: a killed run goes on where it stopped.
"""

import argparse
import sys
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import torch

from benchmarks.accuracy.plan import TRAINED, Measurement, Recipe, Run, base_measurements, steps
from benchmarks.accuracy.progress import describe_remaining
from benchmarks.accuracy.report import write_report
from benchmarks.accuracy.store import Store
from benchmarks.accuracy.train import train
from prefillshare.errors import EvaluationError, PrefillShareError
from prefillshare.evaluation.driver import score_answers
from prefillshare.evaluation.suites.tiny import load_suite
from prefillshare.tiny.answers import TinyAnswers
from prefillshare.tiny.language.conversations import TASKS
from prefillshare.training.memory import keep_freed_memory
from prefillshare.training.progress import Reporter, make_reporter

ROOT = Path(__file__).parents[2]


def main() -> None:
    """Do what is left, and write the report after every training."""
    options = _options()
    torch.set_num_threads(options.threads)
    keep_freed_memory()
    try:
        with make_reporter() as reporter:
            places = (options.out, options.work, options.models / "tiny")
            Accuracy(_recipe(options), *places, reporter, kinds=options.kinds.split(",")).run()
    except PrefillShareError as error:
        sys.exit(f"error: {error}")


class Accuracy:
    """The whole measurement."""

    def __init__(
        self, recipe: Recipe, out: Path, work: Path, tiny: Path, reporter: Reporter, *, kinds: Sequence[str] = TRAINED
    ) -> None:
        """`kinds` are the ways of training that are looked at; those left out stay as they are stored.

        Raises: EvaluationError for an unknown kind.
        """
        if unknown := [kind for kind in kinds if kind not in TRAINED]:
            raise EvaluationError(f"there is no kind {unknown[0]!r}: choose from {', '.join(TRAINED)}")
        self._recipe, self._out, self._tiny, self._reporter, self._kinds = recipe, out, tiny, reporter, kinds
        self._work = work / recipe.sha256(of_training=True)
        out.mkdir(parents=True, exist_ok=True)
        self._work.mkdir(parents=True, exist_ok=True)
        self._store = Store(out / "accuracy.json", recipe)

    def run(self) -> None:
        """Train and measure what is not there yet: of each seed the main table, then the rest of the curve.

        Effects: writes the result file after every step, the report after every module.
        """
        for measurement in base_measurements(self._recipe):
            self._measure(measurement)
        for run, wanted in steps(self._recipe):
            if run.trained in self._kinds and (missing := self._missing(wanted)):
                self._module(run, missing)
        write_report(self._recipe, self._store, self._out)

    def _module(self, run: Run, missing: Sequence[Measurement]) -> None:
        if not (self._work / run.name).exists() or run.name not in self._store.trainings:
            self._reporter.say(f"{run.name}: training")
            self._store.add_training(run, train(self._recipe, run, self._tiny / "base", self._work, self._reporter))
        for measurement in missing:
            self._measure(measurement)
        write_report(self._recipe, self._store, self._out)
        self._reporter.say(describe_remaining(self._recipe, self._store))

    def _missing(self, wanted: Sequence[Measurement]) -> list[Measurement]:
        return [measurement for measurement in wanted if measurement.name not in self._store.accuracies]

    def _measure(self, measurement: Measurement) -> None:
        if measurement.name in self._store.accuracies:
            return
        suite = load_suite(f"tiny-{measurement.task}", self._recipe.num_problems)
        module = (self._work / measurement.run.name).resolve() if measurement.run else None
        started = time.process_time()
        answers = TinyAnswers(self._tiny, module, sharing_ratio=measurement.ratio)
        given = answers.answer([list(question.messages) for question in suite.questions])
        score = score_answers(suite, measurement.name, given)
        self._store.add_accuracy(measurement, score.num_right, len(score.samples), time.process_time() - started)
        self._reporter.say(f"{measurement.name}: {score.num_right}/{len(score.samples)} = {score.accuracy:.1%}")


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tasks", help="some of math,tool,code")
    parser.add_argument("--kinds", default=",".join(TRAINED), help=f"some of {','.join(TRAINED)}; default all")
    parser.add_argument("--seeds", help="such as 1,2,3")
    parser.add_argument("--conversations", type=int, help="conversations per training, of every task")
    parser.add_argument("--problems", type=int, help="held-out problems per task")
    parser.add_argument("--ratios", help="sharing ratios, such as 0,0.5,1; both ends belong to the table")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--models", type=Path, default=ROOT / "models", help="directory that holds tiny/base")
    parser.add_argument("--work", type=Path, default=ROOT / ".bench-accuracy", help="trained weights and checkpoints")
    parser.add_argument("--out", type=Path, default=ROOT / "docs" / "results", help="accuracy.md, .json and .svg")
    return parser.parse_args()


def _recipe(options: argparse.Namespace) -> Recipe:
    recipe = Recipe()
    if options.tasks:
        recipe = replace(recipe, tasks=tuple(options.tasks.split(",")))
    if options.seeds:
        recipe = replace(recipe, seeds=tuple(int(seed) for seed in options.seeds.split(",")))
    if options.ratios:
        recipe = replace(recipe, ratios=tuple(float(ratio) for ratio in options.ratios.split(",")))
    if options.conversations:
        recipe = replace(recipe, num_conversations=dict.fromkeys(TASKS, options.conversations))
    if options.problems:
        recipe = replace(recipe, num_problems=options.problems)
    return recipe


if __name__ == "__main__":
    main()

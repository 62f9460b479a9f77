"""How often a classifier chooses right; `--served`, how often `auto` answers right; `--cost`, what choosing costs.

`make bench-classifier ARGS=...`

The choice is computed from the base's hidden states in process, on held-out questions of the tiny family that are asked
in several ways (`benchmarks/classifier/problems.py`); what is served is the same (tests/fidelity/test_classifier.py).
`--served` asks a deployment of either topology, and judges its answers; `--cost` asks an engine: a quiet machine,
please.
"""

import argparse
import platform
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.classifier.cost import Cost, measure_cost
from benchmarks.classifier.deployment import FILES, MODELS
from benchmarks.classifier.problems import WAYS, conversations, render
from benchmarks.classifier.served import Served, measure_served
from prefillshare.evaluation.statistics import wilson_interval
from prefillshare.modules.heads import Head, read_head
from prefillshare.tiny.language.conversations import TASKS
from prefillshare.training.finetune.models import load_tokenizer
from prefillshare.training.router.states import last_states

BASE = MODELS / "tiny" / "base"
_SIZE_TOKENS = 8192


def choose(head: Head, prompts: Sequence[str]) -> list[str]:
    """Return the module that is chosen for each prompt."""
    tokenizer: Any = load_tokenizer(BASE)
    tokens = [tokenizer.encode(prompt, add_special_tokens=False) for prompt in prompts]
    states = last_states(BASE, tokens, size_tokens=_SIZE_TOKENS, dtype="fp32")
    numbers = (states @ head.weight.T + head.bias).argmax(axis=1)
    return [head.manifest.labels[number] for number in numbers]


def measure_accuracy(head: Head, ways: Sequence[str], num_problems: int) -> None:
    """Print a row for each way of asking, as Markdown, and who was taken for whom."""
    print("| asked |", " | ".join(TASKS), "| all | 95 % interval |")
    print("|---|", "---|" * (len(TASKS) + 2), sep="")
    for way in ways:
        wanted, prompts = [], []
        for task in TASKS:
            found = [render(turns) for turns in conversations(task, way, num_problems)]
            prompts += found
            wanted += [task] * len(found)
        chosen = choose(head, prompts)
        right = np.array([one == other for one, other in zip(chosen, wanted, strict=True)])
        shares = [f"{int(right[np.array(wanted) == task].sum())}/{num_problems}" for task in TASKS]
        low, high = wilson_interval(int(right.sum()), len(right))
        print("|", way, "|", " | ".join(shares), f"| {right.mean():.2%} | {low:.1%} to {high:.1%} |", flush=True)


def print_cost(costs: Sequence[Cost]) -> None:
    """Print them as Markdown."""
    print("| prompt | calls | tokens of it | computed by the choice | named, ms | auto, ms | extra, ms |")
    print("|---|---|---|---|---|---|---|")
    for cost in costs:
        print(
            f"| {cost.cached} | {cost.num_calls} | {cost.prompt_tokens:.0f} | {cost.choice_tokens:.0f} "
            f"| {cost.named_ms:.1f} | {cost.auto_ms:.1f} | {cost.extra_ms:.1f} |"
        )


def print_served(found: Iterable[Served]) -> None:
    """Print them as Markdown."""
    print("| problems | answered by their module | right by `auto` | right by its name | same answer |")
    print("|---|---|---|---|---|")
    for served in found:
        print(
            f"| {served.task}, {served.num_problems} | {served.num_chosen_right} | {served.num_auto_right} "
            f"| {served.num_named_right} | {served.num_same} |",
            flush=True,
        )


def main() -> None:
    """Measure."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.classifier", description=__doc__)
    parser.add_argument("--classifier", type=Path, default=MODELS / "tiny-router")
    parser.add_argument("--num-problems", type=int, default=500, help="of each task and way")
    parser.add_argument("--ways", nargs="*", choices=WAYS, help="of asking; all of them, if not given")
    parser.add_argument("--served", choices=FILES, help="ask a deployment of this topology, and judge its answers")
    parser.add_argument("--cost", action="store_true", help="what choosing costs, in place of how often it is right")
    parser.add_argument("--num-calls", type=int, default=150, help="with --cost")
    options = parser.parse_args()
    classifier = options.classifier.resolve()
    if options.served:
        print_served(measure_served(classifier, options.served, options.num_problems))
    elif options.cost:
        print_cost(measure_cost(classifier, options.num_calls))
    else:
        measure_accuracy(read_head(classifier), options.ways or list(WAYS), options.num_problems)
    print(f"\n{platform.machine()}, python -m benchmarks.classifier")


if __name__ == "__main__":
    main()

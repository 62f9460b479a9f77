"""DEN on scikit-learn's digits: AUROC and parameters beside separate networks, one for all, EWC, progressive networks.

Run: `make bench-den`. Ten one-against-rest tasks in sequence; AUROC of all of them after the last one. Each (method,
seed) that is measured is kept in den.json, so a killed run goes on.
"""

import argparse
import json
import statistics
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import torch

from benchmarks.den.digits import NUM_TASKS, Digits, auroc, load_digits
from benchmarks.den.network import Den, Settings
from benchmarks.den.others import Scores, elastic, progressive, separate, together
from benchmarks.den.report import write_report

ROOT = Path(__file__).parents[2]
Learned = tuple[Scores, int, int]
"""Scores, parameters that are not zero, and all parameters."""


def main() -> None:
    """Measure what is not there yet, and write the report after every seed."""
    options = _options()
    torch.set_num_threads(1)
    file = options.out / "den.json"
    results = json.loads(file.read_text()) if file.exists() else {}
    for seed in range(1, options.seeds + 1):
        digits = load_digits(seed)
        for method, learn in METHODS.items():
            if f"{method}/{seed}" not in results:
                results[f"{method}/{seed}"] = _measure(method, learn, digits, seed)
                file.parent.mkdir(parents=True, exist_ok=True)
                file.write_text(json.dumps(results, indent=1) + "\n")
                print(f"{method}, seed {seed}: {results[f'{method}/{seed}']}", flush=True)
        write_report(results, options.out)


def _measure(method: str, learn: Callable[[Digits, int], Learned], digits: Digits, seed: int) -> dict[str, object]:
    torch.manual_seed(seed)
    started = time.process_time()
    scores, num_parameters, num_stored = learn(digits, seed)
    with torch.no_grad():
        found = [auroc(scores(digits.test.images, task), digits.test.labels(task)) for task in range(NUM_TASKS)]
    return {
        "method": method,
        "seed": seed,
        "auroc": round(statistics.mean(found), 5),
        "by_task": [round(value, 4) for value in found],
        "num_parameters": num_parameters,
        "num_stored": num_stored,
        "seconds": round(time.process_time() - started, 1),
    }


def _of(learn: Callable[..., tuple[Scores, int]]) -> Callable[[Digits, int], Learned]:
    def run(digits: Digits, seed: int) -> Learned:
        scores, num_parameters = learn(digits.train)
        return scores, num_parameters, num_parameters

    return run


def _den(settings: Settings) -> Callable[[Digits, int], Learned]:
    def run(digits: Digits, seed: int) -> Learned:
        network = Den(digits.train.images.shape[1], settings, seed)
        for _ in range(NUM_TASKS):
            network.learn(digits.train)
        return network.scores, network.num_parameters(), network.num_stored()

    return run


SETTINGS = Settings()
METHODS: dict[str, Callable[[Digits, int], Learned]] = {
    "STL": _of(separate),
    "MTL": _of(together),
    "EWC": _of(elastic),
    "Progressive": _of(progressive),
    "DEN": _den(SETTINGS),
    "DEN, no split": _den(replace(SETTINGS, splits=False)),
    "DEN, constant k": _den(replace(SETTINGS, keeps_all_added=True)),
    "DEN, no stamps": _den(replace(SETTINGS, has_stamps=False)),
}


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=10)
    parser.add_argument("--out", type=Path, default=ROOT / "docs" / "results", help="den.md, den.json and den.svg")
    return parser.parse_args()


if __name__ == "__main__":
    main()

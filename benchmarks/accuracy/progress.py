"""What is left of the measurement, and how long that takes, from what the finished parts took."""

import statistics
from collections.abc import Iterable, Mapping
from typing import Any

from benchmarks.accuracy.plan import Recipe, runs, steps
from benchmarks.accuracy.store import Store


def describe_remaining(recipe: Recipe, store: Store) -> str:
    """One line for people; at least one training and one measurement must be stored.

    Units: minutes of CPU time, which is the time to wait where nothing else computes.
    """
    trainings = [run for run in runs(recipe) if run.name not in store.trainings]
    missing = [
        measurement for _, wanted in steps(recipe) for measurement in wanted if measurement.name not in store.accuracies
    ]
    seconds = len(missing) * _mean_seconds(store.accuracies.values())
    for run in trainings:
        done = list(store.trainings.values())
        alike = [entry for entry in done if (entry["task"], entry["trained"]) == (run.task, run.trained)]
        seconds += _mean_seconds(alike or done)
    return f"{len(trainings)} trainings and {len(missing)} measurements are left, about {seconds / 60:.0f} min"


def _mean_seconds(done: Iterable[Mapping[str, Any]]) -> float:
    return statistics.mean(entry["seconds"] for entry in done)

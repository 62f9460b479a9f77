"""Workloads by name."""

from dataclasses import replace
from pathlib import Path
from typing import Literal, get_args

from prefillshare.bench.workloads.base import Shape, Workload
from prefillshare.bench.workloads.gsm8k import gsm8k_agents
from prefillshare.bench.workloads.react import react
from prefillshare.bench.workloads.reflexion import reflexion
from prefillshare.bench.workloads.trace import trace
from prefillshare.bench.workloads.unshared import unshared
from prefillshare.errors import BenchError

WorkloadName = Literal["react", "reflexion", "unshared", "trace", "gsm8k-agents"]
WORKLOADS: tuple[str, ...] = get_args(WorkloadName)
WITH_FILE = ("trace", "gsm8k-agents")
"""Workloads that are made from a file."""


def check_workload(name: str, file: Path | None) -> None:
    """Raise: BenchError when there is no such workload, or its file is missing or too much."""
    if name not in WORKLOADS:
        raise BenchError(f"there is no workload {name!r}: choose one of {', '.join(WORKLOADS)}")
    if (name in WITH_FILE) != (file is not None):
        what = "needs a file" if file is None else f"takes no file, got {file}"
        raise BenchError(f"workload {name} {what}: write `prefillshare bench {name}{' FILE' if file is None else ''}`")


def make_workload(
    name: str, shape: Shape, modules: tuple[str, ...], file: Path | None = None, tokenizer_file: Path | None = None
) -> Workload:
    """The workload `name` for `modules`; `tokenizer_file` is that of the models, for workloads of text.

    Raises: BenchError when it cannot be made or does not fit the context window.
    """
    check_workload(name, file)
    made = replace(_make(name, shape, modules, file, tokenizer_file), think_time_s=shape.think_time_s)
    made.check_fits(shape.context_length)
    return made


def _make(
    name: str, shape: Shape, modules: tuple[str, ...], file: Path | None, tokenizer_file: Path | None
) -> Workload:
    simple = {"react": react, "reflexion": reflexion, "unshared": unshared}
    if name in simple:
        return simple[name](shape, modules)
    assert file is not None
    if name == "trace":
        return trace(shape, modules, file)
    if tokenizer_file is None:
        raise BenchError(f"workload {name} needs the models' tokenizer: measure a family or a deployment file")
    return gsm8k_agents(shape, modules, file, tokenizer_file)

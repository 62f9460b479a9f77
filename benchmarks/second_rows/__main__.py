"""Measure a decode step with second rows: `python -m benchmarks.second_rows [--family bench-0.1b] [--rounds 3]`.

One engine serves an ordinary adapter and one over the base's KV alone (docs/icarus.md), both of random weights over the
same base. Some calls at a time go to one of them, their prompts cached, then as many to the other, in turns. A step is
what lies between two tokens of an answer; CPU is that of all of the engine's processes, by token. The table has the
median step of each, of the median round.
"""

import argparse
import asyncio
import itertools
import json
import platform
import statistics
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import astuple, dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory

import httpx
import psutil

from prefillshare.bench.families.factory import make_family
from prefillshare.bench.report.machine import processor_name
from prefillshare.config.schema import Deployment
from prefillshare.modules.deployment import resolve
from prefillshare.serving.machine.ports import free_port
from prefillshare.serving.options import LaunchOptions
from prefillshare.serving.run.engine import launch_engine

CONCURRENCIES = (1, 4, 8)
OWN, PAIRED = "own", "paired"
FIRST_STEPS = 4
"""Tokens of an answer whose step is left out: other prompts of the round may still be read then."""


def make_deployment(family: str) -> Deployment:
    """An ordinary module and one over the base's KV alone; nothing is computed ahead."""
    ordinary, icarus = (make_family(name).deployment(1, print) for name in (family, f"{family}-icarus"))
    decode = (replace(ordinary.decode[0], name=OWN), replace(icarus.decode[0], name=PAIRED))
    return replace(ordinary, decode=decode, prefill=replace(ordinary.prefill, eager_answers=False))


@dataclass(frozen=True, slots=True, kw_only=True)
class Step:
    """What a decode step took."""

    wall_s: float
    """Seconds between two tokens."""
    cpu_s: float
    """CPU seconds of the engine."""


@contextmanager
def serve(deployment: Deployment) -> Iterator[str]:
    """Address of the engine."""
    with TemporaryDirectory() as logs:
        options = LaunchOptions(port=free_port(), log_path=Path(logs) / "engine.log")
        running = launch_engine(resolve(deployment), options)
        try:
            yield running.url
        finally:
            running.stop(drain_s=0)


async def ask(http: httpx.AsyncClient, prompt: list[int], module: str, num_tokens: int) -> list[float]:
    """Seconds between the tokens of one answer."""
    sampling = {"temperature": 0, "max_new_tokens": num_tokens, "ignore_eos": True}
    body = {"input_ids": prompt, "lora_path": module, "stream": True, "sampling_params": sampling}
    times: list[float] = []
    async with http.stream("POST", "/generate", json=body) as reply:
        async for line in reply.aiter_lines():
            if line.startswith("data: {"):
                assert "error" not in json.loads(line.removeprefix("data: ")), line
                times.append(time.perf_counter())
    return [after - before for before, after in itertools.pairwise(times)]


def engine_cpu_s() -> float:
    """CPU seconds of the engine's processes so far: on a busy machine they say more than the clock."""
    children = psutil.Process().children(recursive=True)
    return sum(sum(child.cpu_times()[:2]) for child in children)


async def measure_step(url: str, module: str, num_calls: int, options: argparse.Namespace) -> Step:
    """The median step of so many calls at a time."""
    prompts = [[10 + (i * 31 + call * 97) % 1000 for i in range(options.prompt)] for call in range(num_calls)]
    async with httpx.AsyncClient(base_url=url, timeout=600) as http:
        await asyncio.gather(*(ask(http, prompt, module, 1) for prompt in prompts))
        cpu_s = engine_cpu_s()
        answers = await asyncio.gather(*(ask(http, prompt, module, options.tokens) for prompt in prompts))
        cpu_s = engine_cpu_s() - cpu_s
    wall_s = statistics.median(step for steps in answers for step in steps[FIRST_STEPS:])
    return Step(wall_s=wall_s, cpu_s=cpu_s / options.tokens)


def measure(url: str, options: argparse.Namespace) -> dict[int, dict[str, Step]]:
    """The median round, by calls at a time and module."""
    rounds: dict[tuple[int, str], list[Step]] = {}
    for _, num_calls, module in itertools.product(range(options.rounds), CONCURRENCIES, (OWN, PAIRED)):
        found = asyncio.run(measure_step(url, module, num_calls, options))
        rounds.setdefault((num_calls, module), []).append(found)
    return {n: {module: median(rounds[n, module]) for module in (OWN, PAIRED)} for n in CONCURRENCIES}


def median(steps: list[Step]) -> Step:
    """The median of both figures."""
    wall_s, cpu_s = (statistics.median(figures) for figures in zip(*map(astuple, steps), strict=True))
    return Step(wall_s=wall_s, cpu_s=cpu_s)


def write_table(steps: dict[int, dict[str, Step]]) -> None:
    """Print what was measured, as Markdown."""
    command = " ".join(["python -m benchmarks.second_rows", *sys.argv[1:]])
    print(f"{processor_name()}, Python {platform.python_version()}; `{command}`\n")
    print("| calls at a time | one row, ms | two rows, ms | | CPU, one row | two rows | |")
    print("|---:|---:|---:|---:|---:|---:|---:|")
    for num_calls, found in steps.items():
        own, paired = found[OWN], found[PAIRED]
        cells = [str(num_calls)]
        for name in ("wall_s", "cpu_s"):
            one_row, two_rows = getattr(own, name), getattr(paired, name)
            cells += [f"{one_row * 1e3:.1f}", f"{two_rows * 1e3:.1f}", f"{two_rows / one_row:.2f}x"]
        print("|", " | ".join(cells), "|")


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.second_rows", description=__doc__)
    parser.add_argument("--family", default="bench-0.1b", help="one that has an -icarus form")
    parser.add_argument("--prompt", type=int, default=1000, help="tokens of each prompt")
    parser.add_argument("--tokens", type=int, default=48, help="tokens of each answer")
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    with serve(make_deployment(options.family)) as url:
        write_table(measure(url, options))


if __name__ == "__main__":
    main()

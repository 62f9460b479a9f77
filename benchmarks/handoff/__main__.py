"""Measure both ways of a hand-off on one machine without a GPU: `python -m benchmarks.handoff [--out FILE]`.

Two processes have the memory of a prefill and a decode worker; pages go from one to the other by shared memory and by
NIXL, in turns, the word that they are there included. `runs` are pages that follow each other on both sides, as they do
in a fresh pool, `scattered` ones do not, as after many evictions. Medians of `--rounds`.

With `--calls`, deployments of the tiny family that go one and the other way are started in turns, and the time to the
first token of calls is measured whose prompts no worker has seen.
"""

import argparse
import os
import platform
import random
import statistics
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np

from benchmarks.handoff.ways import MEMORY, NIXL, Handoff, Shape, two_workers
from prefillshare import direct
from prefillshare.bench.report.machine import processor_name
from prefillshare.serving.launch import running_deployment

SHAPES = {
    "tiny": Shape(num_layers=5, num_heads=2, head_dim=64),
    "bench-0.1b": Shape(num_layers=16, num_heads=4, head_dim=64),
}
LENGTHS = (1024, 4096, 16384)
PAGES = (1, 16)
POOL_TOKENS = 32768
PROMPTS = (1000, 3500)
NUM_CALLS = 12
DEPLOYMENT = Path(__file__).parents[2] / "models" / "tiny-agents-pd.toml"


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.handoff", description=__doc__)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--calls", action="store_true", help="measure calls of deployments, too")
    parser.add_argument("--out", type=Path, help="Markdown file for the tables")
    options = parser.parse_args()
    lines = [f"{platform.machine()}, {os.cpu_count()} cores, {processor_name()}, no GPU", "", *measure_ways(options)]
    if options.calls:
        lines += ["", *measure_calls(options)]
    print("\n".join(lines))
    if options.out:
        options.out.write_text("\n".join(lines) + "\n")


def measure_ways(options: argparse.Namespace) -> Iterator[str]:
    """The table of hand-offs alone."""
    yield "| KV of | page | tokens | MB | pages | memory ms | NIXL ms | ratio | memory CPU ms | NIXL CPU ms |"
    yield "|---|---:|---:|---:|---|---:|---:|---:|---:|---:|"
    for name, shape in SHAPES.items():
        for page in PAGES:
            with two_workers(shape, POOL_TOKENS // page, page) as hand_over:
                for tokens in LENGTHS:
                    for is_scattered in (False, True):
                        found: dict[str, list[Handoff]] = {MEMORY: [], NIXL: []}
                        # The first round touches memory for the first time.
                        for number in range(options.rounds + 1):
                            source, target = _choose_pages(tokens // page, POOL_TOKENS // page, is_scattered)
                            for way in (MEMORY, NIXL) if number % 2 else (NIXL, MEMORY):
                                found[way].append(hand_over(way, source, target))
                        megabytes = tokens * shape.num_layers * shape.num_heads * shape.head_dim * 8 / 1e6
                        pages = "scattered" if is_scattered else "runs"
                        yield f"| {name} | {page} | {tokens:,} | {megabytes:.1f} | {pages} | {_cells(found)} |"


def _choose_pages(count: int, num_pages: int, is_scattered: bool) -> tuple[np.ndarray, np.ndarray]:
    if is_scattered:
        chance = np.random.default_rng(count)
        return tuple(chance.permutation(num_pages)[:count].astype(np.int32) for _ in range(2))  # type: ignore[return-value]
    return np.arange(count, dtype=np.int32), np.arange(count, dtype=np.int32)


def _cells(found: dict[str, list[Handoff]]) -> str:
    wall, cpu = (
        {way: 1e3 * statistics.median(getattr(one_way, name) for one_way in found[way][1:]) for way in found}
        for name in ("wall_s", "cpu_s")
    )
    cells = [wall[MEMORY], wall[NIXL], wall[MEMORY] / wall[NIXL], cpu[MEMORY], cpu[NIXL]]
    return " | ".join(f"{cell:.2f}" for cell in cells)


def measure_calls(options: argparse.Namespace) -> Iterator[str]:
    """The table of times to the first token."""
    found: dict[tuple[str, int], list[float]] = {(way, length): [] for way in (MEMORY, NIXL) for length in PROMPTS}
    for number in range(options.rounds):
        for way in (MEMORY, NIXL) if number % 2 else (NIXL, MEMORY):
            with _deployment(way) as url:
                for length in PROMPTS:
                    found[way, length] += _times_to_first_token(url, length)
    yield "| prompt | memory: first token, p50 ms | NIXL | ratio |"
    yield "|---:|---:|---:|---:|"
    for length in PROMPTS:
        memory, nixl = (1e3 * statistics.median(found[way, length]) for way in (MEMORY, NIXL))
        yield f"| {length:,} | {memory:.1f} | {nixl:.1f} | {memory / nixl:.2f} |"


@contextmanager
def _deployment(way: str) -> Iterator[str]:
    text = DEPLOYMENT.read_text().replace('path = "', f'path = "{DEPLOYMENT.parent}/')
    with TemporaryDirectory() as folder:
        file = Path(folder) / "handoff.toml"
        file.write_text(f"{text}\n[transfer]\nshared_memory = {str(way == MEMORY).lower()}\n")
        with running_deployment(file) as running:
            yield running.url


def _times_to_first_token(url: str, length: int) -> Sequence[float]:
    chance, times = random.Random(length), []
    with direct.direct_client(base_url=url, timeout=120) as client:
        for number in range(NUM_CALLS + 1):
            prompt = [chance.randrange(5, 900) for _ in range(length)]
            body = {"model": "math", "prompt": prompt, "max_tokens": 2, "temperature": 0, "stream": True}
            started = time.perf_counter()
            with client.stream("POST", "/v1/completions", json=body) as reply:
                reply.raise_for_status()
                lines = reply.iter_lines()
                next(lines)
                first_s = time.perf_counter() - started
                # To the end: an answer that is left would run beside the next call.
                for _ in lines:
                    pass
            # The first call of each deployment makes connections.
            if number:
                times.append(first_s)
    return times


if __name__ == "__main__":
    main()

"""Measure the parts of a decode step: `python -m benchmarks.second_rows.parts [--family bench-0.1b] [--rounds 9]`.

What the CPU platform computes in all layers of a step (`sglang_patches/cpu/`), by itself, with one row per call and
with two, over random numbers of the family's shapes: milliseconds of this thread's CPU, which a busy machine disturbs
less than the clock; the median of rounds in which all take turns. Not in it: SGLang's own Python, the LM head and
sampling, which `python -m benchmarks.second_rows` has with all the rest.
"""

import argparse
import itertools
import platform
import statistics
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass

import torch

from prefillshare.bench.families.random import BENCH_01B, QWEN3_1_7B, RANK
from prefillshare.bench.report.machine import processor_name
from sglang_patches.cpu.computation import (
    AdapterRows,
    attend_in_place,
    group_by_adapter,
    lay_by_inputs,
    lora_a,
    lora_b,
    multiply,
    rms_norm,
    rotate_both,
)

CALLS = (1, 4, 8)
FAMILIES = {shape.name: shape.config for shape in (BENCH_01B, QWEN3_1_7B)}


@dataclass(frozen=True, slots=True, kw_only=True)
class Shape:
    """The numbers of a family's config.json."""

    layers: int
    hidden: int
    intermediate: int
    heads: int
    kv_heads: int
    size: int

    @property
    def linear(self) -> tuple[tuple[int, tuple[int, ...]], ...]:
        """Inputs, and outputs of each slice, of the products of a layer: qkv, o, gate and up, down."""
        queries, keys = self.heads * self.size, self.kv_heads * self.size
        return (
            (self.hidden, (queries, keys, keys)),
            (queries, (self.hidden,)),
            (self.hidden, (self.intermediate, self.intermediate)),
            (self.intermediate, (self.hidden,)),
        )


class Layer:
    """Weights, adapters (slot 1) and KV of one layer."""

    def __init__(self, shape: Shape, num_tokens: int) -> None:
        self.weights = [lay_by_inputs(torch.randn(sum(outs), size_in)) for size_in, outs in shape.linear]
        self.a = [torch.randn(2, len(outs) * RANK, size_in) for size_in, outs in shape.linear]
        self.b = [torch.randn(2, sum(outs), RANK) for _, outs in shape.linear]
        self.kv = [torch.randn(num_tokens + 1, shape.kv_heads, shape.size) for _ in range(2)]


class Step:
    """One decode step of so many calls."""

    def __init__(self, shape: Shape, layers: list[Layer], num_calls: int, num_rows: int, length: int) -> None:
        self.shape, self.layers, self.num_calls = shape, layers, num_calls
        self.num_tokens = num_calls * num_rows
        self.lengths = torch.full((num_calls,), length)
        self.slots = 1 + torch.arange(num_calls * length, dtype=torch.int32).view(num_calls, length)
        second = torch.arange(num_calls, self.num_tokens) if num_rows > 1 else torch.full((num_calls,), -1)
        self.second, self.groups = second, self._adapters(num_rows)
        self.positions, self.table = self.lengths.repeat(num_rows), torch.rand(2 * length, shape.size)
        self.inputs = [torch.randn(self.num_tokens, size_in) for size_in, _ in shape.linear]
        self.query, self.key = (
            torch.randn(self.num_tokens, heads, shape.size) for heads in (shape.heads, shape.kv_heads)
        )

    def _adapters(self, num_rows: int) -> list[AdapterRows]:
        if num_rows == 1:
            return group_by_adapter([1], [self.num_calls], [0, RANK], [0.0, 1.0])
        return group_by_adapter([0, 1], [self.num_calls, self.num_calls], [0, RANK], [0.0, 1.0])

    def multiply(self) -> None:
        for layer in self.layers:
            for x, weight in zip(self.inputs, layer.weights, strict=True):
                multiply(x, weight, None)

    def attend(self) -> None:
        rows, output = torch.arange(self.num_calls), torch.empty_like(self.query)
        for layer in self.layers:
            attend_in_place(self.query, *layer.kv, self.slots, rows, self.lengths, self.second, None, output)

    def adapt(self) -> None:
        for layer in self.layers:
            for x, a, b, (_, outs) in zip(self.inputs, layer.a, layer.b, self.shape.linear, strict=True):
                output = x.new_empty(len(x), sum(outs))
                shrunk = lora_a(x, a, self.groups, len(outs))
                lora_b(shrunk, b, self.groups, [0, *itertools.accumulate(outs)], output)

    def normalize(self) -> None:
        for _ in self.layers:
            for x in (self.inputs[0], self.inputs[2], self.query, self.key):
                rms_norm(x, torch.ones(x.shape[-1]), 1e-6)

    def rotate(self) -> None:
        for _ in self.layers:
            rotate_both(self.query, self.key, self.positions, self.table)

    @property
    def parts(self) -> dict[str, Callable[[], None]]:
        """What is timed, by the name in the table."""
        return {
            "linear layers": self.multiply,
            "attention": self.attend,
            "adapters": self.adapt,
            "norms": self.normalize,
            "rotation": self.rotate,
        }


def measure(shape: Shape, num_calls: int, options: argparse.Namespace) -> dict[str, list[float]]:
    """Milliseconds of each part with one row per call, and with two."""
    layers = [Layer(shape, num_calls * options.prompt) for _ in range(shape.layers)]
    steps = [Step(shape, layers, num_calls, num_rows, options.prompt) for num_rows in (1, 2)]
    found: dict[str, list[list[float]]] = {name: [[], []] for name in steps[0].parts}
    for _ in range(options.rounds):
        for number, step in enumerate(steps):
            for name, run in step.parts.items():
                found[name][number].append(cpu_ms(run))
    return {name: [statistics.median(rounds) for rounds in both] for name, both in found.items()}


def cpu_ms(run: Callable[[], None]) -> float:
    """What this takes of the thread's CPU."""
    start = time.thread_time()
    run()
    return (time.thread_time() - start) * 1e3


def write_table(found: dict[int, dict[str, list[float]]]) -> None:
    """Print what was measured, as Markdown."""
    command = " ".join(["python -m benchmarks.second_rows.parts", *sys.argv[1:]])
    print(f"{processor_name()}, Python {platform.python_version()}; `{command}`\n")
    print("| ms of a step, one row / two rows | " + " | ".join(f"calls: {n}" for n in found) + " |")
    print("|---|" + "---:|" * len(found))
    for name in found[CALLS[0]]:
        cells = [f"{one:.1f} / {two:.1f}" for one, two in (parts[name] for parts in found.values())]
        print(f"| {name} | " + " | ".join(cells) + " |")


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.second_rows.parts", description=__doc__)
    parser.add_argument("--family", default=BENCH_01B.name, choices=FAMILIES)
    parser.add_argument("--prompt", type=int, default=1000, help="tokens of each sequence")
    parser.add_argument("--rounds", type=int, default=9)
    options = parser.parse_args()
    torch.set_num_threads(1)
    with torch.no_grad():
        write_table({n: measure(shape_of(FAMILIES[options.family]), n, options) for n in CALLS})


def shape_of(config: dict[str, int]) -> Shape:
    """The shape that a config.json of Qwen3 describes."""
    return Shape(
        layers=config["num_hidden_layers"],
        hidden=config["hidden_size"],
        intermediate=config["intermediate_size"],
        heads=config["num_attention_heads"],
        kv_heads=config["num_key_value_heads"],
        size=config["head_dim"],
    )


if __name__ == "__main__":
    main()

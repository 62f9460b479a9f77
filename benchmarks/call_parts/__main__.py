"""Measure the parts of a call: `python -m benchmarks.call_parts [--cached 750] [--new 33] [--whole 600] [--rounds 9]`.

What the CPU platform computes in all layers (`sglang_patches/cpu/`), by itself, over random numbers of `bench-0.1b`'s
shapes, divided by the calls that share it, in milliseconds of this thread's CPU; the least of rounds in which all take
turns, since a busy machine only adds to it:

    new tokens     a call's, over a cached prefix, with eleven others' in one pass; the last one alone has an adapter
    decode step    of sixteen calls with eight adapters
    whole prompt   all tokens with the adapter, as where each module prefills for itself

Not in it: norms, activations, SGLang's own Python, sampling, HTTP.
"""

import argparse
import itertools
import platform
import sys
from collections.abc import Callable
from dataclasses import dataclass

import torch

from benchmarks.second_rows.parts import FAMILIES, Shape, cpu_ms, shape_of
from prefillshare.bench.families.random import BENCH_01B, RANK
from prefillshare.bench.report.machine import processor_name
from sglang_patches.cpu.computation import (
    attend_new_in_place,
    group_by_adapter,
    lay_by_inputs,
    lora_a,
    lora_b,
    multiply,
)

NUM_ADAPTERS = 8
POOL = 20_000


class Layer:
    """Weights, adapters (slot 0 is the base) and KV of one layer."""

    def __init__(self, shape: Shape) -> None:
        self.weights = [lay_by_inputs(torch.randn(sum(outs), size_in)) for size_in, outs in shape.linear]
        self.a = [torch.randn(NUM_ADAPTERS + 1, len(outs) * RANK, size_in) for size_in, outs in shape.linear]
        self.b = [torch.randn(NUM_ADAPTERS + 1, sum(outs), RANK) for _, outs in shape.linear]
        self.kv = [torch.randn(POOL, shape.kv_heads, shape.size) for _ in range(2)]


@dataclass(frozen=True, slots=True, kw_only=True)
class Pass:
    """A pass of the engine over so many equal calls."""

    name: str
    calls: int
    cached: int
    new: int
    adapted: int
    """Last tokens of each call that have its adapter."""

    def parts(self, shape: Shape, layers: list[Layer]) -> dict[str, Callable[[], None]]:
        """What is timed, by the name in the table."""
        num_tokens, length = self.calls * self.new, self.cached + self.new
        inputs = [torch.randn(num_tokens, size_in) for size_in, _ in shape.linear]
        query = torch.randn(num_tokens, shape.heads, shape.size)
        slots = torch.arange(self.calls * length, dtype=torch.int32).view(self.calls, length)
        rows, lengths = torch.arange(self.calls), torch.full((self.calls,), length)
        new = torch.full((self.calls,), self.new)
        groups = group_by_adapter(
            [slot for number in range(self.calls) for slot in (0, 1 + number % NUM_ADAPTERS)],
            [self.new - self.adapted, self.adapted] * self.calls,
            [0, *[RANK] * NUM_ADAPTERS],
            [0.0, *[1.0] * NUM_ADAPTERS],
        )

        def multiply_all() -> None:
            for layer in layers:
                for x, weight in zip(inputs, layer.weights, strict=True):
                    multiply(x, weight, None)

        def attend() -> None:
            output = torch.empty_like(query)
            for layer in layers:
                attend_new_in_place(query, *layer.kv, slots, rows, lengths, new, None, output)

        def adapt() -> None:
            for layer in layers:
                for x, a, b, (_, outs) in zip(inputs, layer.a, layer.b, shape.linear, strict=True):
                    shrunk = lora_a(x, a, groups, len(outs))
                    lora_b(shrunk, b, groups, [0, *itertools.accumulate(outs)], x.new_empty(len(x), sum(outs)))

        return {"linear layers": multiply_all, "attention": attend, "adapters": adapt}


def measure(shape: Shape, passes: list[Pass], num_rounds: int) -> dict[str, dict[str, float]]:
    """Milliseconds of each part of each pass, per call."""
    layers = [Layer(shape) for _ in range(shape.layers)]
    parts = {each.name: each.parts(shape, layers) for each in passes}
    found = {name: dict.fromkeys(runs, float("inf")) for name, runs in parts.items()}
    for _, each in itertools.product(range(num_rounds), passes):
        for part, run in parts[each.name].items():
            found[each.name][part] = min(found[each.name][part], cpu_ms(run) / each.calls)
    return found


def main() -> None:
    """Measure and print a table."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    for name, default in (("cached", 750), ("new", 33), ("whole", 600), ("rounds", 9)):
        parser.add_argument(f"--{name}", type=int, default=default)
    options = parser.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    command = " ".join(["python -m benchmarks.call_parts", *sys.argv[1:]])
    print(f"{processor_name()}, Python {platform.python_version()}; `{command}`\n")
    passes = [
        Pass(name=f"{options.new} new tokens", calls=12, cached=options.cached, new=options.new, adapted=1),
        Pass(name="decode step", calls=16, cached=options.cached + options.new, new=1, adapted=1),
        Pass(name=f"whole prompt of {options.whole}", calls=1, cached=0, new=options.whole, adapted=options.whole),
    ]
    with torch.no_grad():
        found = measure(shape_of(FAMILIES[BENCH_01B.name]), passes, options.rounds)
    print("| ms of CPU per call | " + " | ".join(found) + " |")
    print("|---|" + "---:|" * len(found))
    for part in next(iter(found.values())):
        print(f"| {part} | " + " | ".join(f"{runs[part]:.1f}" for runs in found.values()) + " |")


if __name__ == "__main__":
    main()

"""Measure products with codebook weights beside `F.linear`: `python -m benchmarks.codebook [--rows 1,4,8]`.

All ways take turns, and the least time of each counts, so that whatever else runs on the machine is in none or in all
of them. One thread. Beside them stands torch's own product with 4 bits in groups of 128, which torchao uses on CPUs
(in bfloat16: in float32 it has no fast kernel), and with `--ggml LIBRARY` llama.cpp's with Q2_K (`ggml.py`). Error is
the norm of the difference to the product in float64, over that product's norm; those of 4 bits and of Q2_K are of
weights that were rounded once more.
"""

import argparse
import platform
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

from benchmarks.codebook.ggml import Q2KWeight, load_ggml
from prefillshare.bench.report.machine import processor_name
from prefillshare.codebook.packed import Kernel, best_kernel, pack
from prefillshare.codebook.product import look_up, multiply_expanded
from prefillshare.codebook.reference import CodebookWeight, dequantise
from prefillshare.codebook.shape import CodebookShape

SHAPES = ((4096, 4096), (4096, 14336))
PLAIN = ("f32", "bf16", "int4", "expanded f32", "expanded bf16")
"""Ways without a kernel of ours."""
FOUR_BIT_GROUP = 128
Ways = dict[str, Callable[[], Tensor]]


def random_weight(num_outputs: int, num_inputs: int, shape: CodebookShape) -> CodebookWeight:
    """A weight of random codes, entries and scales."""
    num_segments, size = num_inputs // shape.segment, (num_outputs, num_inputs // shape.group)
    return CodebookWeight(
        codes=torch.randint(shape.num_entries, (num_outputs, num_segments, shape.num_codebooks), dtype=torch.uint8),
        codebooks=torch.randn(shape.num_codebooks, shape.num_entries, shape.segment).half(),
        scales=(torch.rand(size) * 0.02 + 0.01).half(),
    )


def ways_to_multiply(weight: CodebookWeight, rows: Tensor, kernels: list[Kernel]) -> Ways:
    """Each way by its name; all give the same product."""
    plain = dequantise(weight)
    small, rows16 = plain.bfloat16(), rows.bfloat16()
    packed = {kernel: pack(weight, kernel) for kernel in kernels}
    ways: Ways = {
        "f32": lambda: F.linear(rows, plain),
        "bf16": lambda: F.linear(rows16, small),
        "int4": four_bits(plain, rows16),
        "expanded f32": lambda: multiply_expanded(rows, packed[kernels[0]]),
        "expanded bf16": lambda: multiply_expanded(rows16, packed[kernels[0]]),
    }
    for kernel in kernels:
        ways[kernel] = partial(look_up, rows, packed[kernel])
    return ways


def four_bits(plain: Tensor, rows: Tensor) -> Callable[[], Tensor]:
    """The product with the weight in 4 bits, evenly spaced within groups of 128, by torch's kernel for CPUs."""
    num_outputs, num_inputs = plain.shape
    groups = plain.reshape(num_outputs, -1, FOUR_BIT_GROUP)
    low, high = groups.amin(-1), groups.amax(-1)
    step = ((high - low) / 15).clamp(min=1e-12)
    codes = ((groups - low.unsqueeze(-1)) / step.unsqueeze(-1)).round().to(torch.int32).reshape(num_outputs, num_inputs)
    packed = torch.ops.aten._convert_weight_to_int4pack_for_cpu(codes, 1)
    # The kernel counts codes from the middle of their range.
    steps = torch.stack([step, low + 8 * step], -1).transpose(0, 1).contiguous().to(rows.dtype)
    return lambda: torch.ops.aten._weight_int4pack_mm_for_cpu(rows, packed, FOUR_BIT_GROUP, steps)


def least_ms(ways: Ways, repeat: int) -> dict[str, float]:
    """The least milliseconds of each way."""
    least = dict.fromkeys(ways, float("inf"))
    for _ in range(repeat + 1):
        for name, way in ways.items():
            began = time.perf_counter()
            way()
            least[name] = min(least[name], (time.perf_counter() - began) * 1e3)
    return least


def errors(ways: Ways, exact: Tensor) -> dict[str, float]:
    """How far each way is from the exact product."""
    return {name: ((way().double() - exact).norm() / exact.norm()).item() for name, way in ways.items()}


def measure(options: argparse.Namespace) -> None:
    """Print a table, a row for each shape and number of rows."""
    kernels: list[Kernel] = ["vbmi", "floats"] if best_kernel() == "vbmi" else ["floats"]
    shape = CodebookShape(num_codebooks=options.m, code_bits=options.b, segment=options.v, group=options.g)
    others = [*PLAIN, "Q2_K"] if options.ggml else [*PLAIN]
    library = load_ggml(options.ggml) if options.ggml else None
    header = ["out x in", "rows", *(f"{name}, ms" for name in others)]
    header += [f"{kernel}, ms | to f32 | to bf16 | error" for kernel in kernels]
    rounded = [name for name in ("bf16", "int4", "Q2_K") if name in others]
    print(f"| {' | '.join(header)} | {' | '.join(f'error of {name}' for name in rounded)} |")
    print("|" + "---:|" * (2 + len(others) + 4 * len(kernels) + len(rounded)))
    for num_outputs, num_inputs in SHAPES:
        weight = random_weight(num_outputs, num_inputs, shape)
        for num_rows in map(int, options.rows.split(",")):
            rows = torch.randn(num_rows, num_inputs)
            ways = ways_to_multiply(weight, rows, kernels)
            q2_k = Q2KWeight(library, dequantise(weight), num_rows) if library else None
            if q2_k:
                ways["Q2_K"] = partial(q2_k.multiply, rows)
            exact = rows.double() @ dequantise(weight, torch.float64).T
            wrong, ms = errors(ways, exact), least_ms(ways, options.repeat)
            cells = [f"{num_outputs} x {num_inputs}", str(num_rows)]
            cells += [f"{ms[name]:.2f}" for name in others]
            for name in kernels:
                cells += [f"{ms[name]:.3f}", f"{ms['f32'] / ms[name]:.1f}x", f"{ms['bf16'] / ms[name]:.1f}x"]
                cells += [f"{wrong[name]:.1e}"]
            print(f"| {' | '.join(cells)} | {' | '.join(f'{wrong[name]:.1e}' for name in rounded)} |", flush=True)
            if q2_k:
                q2_k.free()


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.codebook", description=__doc__)
    parser.add_argument("--rows", default="1,4,8,16,32,64", help="rows at a time, with commas")
    parser.add_argument("--repeat", type=int, default=30)
    parser.add_argument("--ggml", type=Path, help="a shared library with ggml's functions: measures Q2_K, too")
    for name, default in (("m", 1), ("b", 8), ("v", 4), ("g", 128)):
        parser.add_argument(f"--{name}", type=int, default=default)
    options = parser.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    print(f"{processor_name()}, Python {platform.python_version()}, torch {torch.__version__}, one thread;", end=" ")
    print(f"`{' '.join(['python -m benchmarks.codebook', *sys.argv[1:]])}`\n")
    measure(options)


if __name__ == "__main__":
    main()

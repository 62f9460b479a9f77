"""Measure passes of which only KV is wanted: `python -m benchmarks.kv_only [--family bench-0.1b] [--tokens 33 128]`.

The prefill module alone computes prompts behind a prefix, for no token and for one, in turns: milliseconds of a pass
without HTTP, scheduler and sampling, one thread; medians, and the ratio of the medians.
"""

import argparse
import os
import platform
import random
import statistics
import sys
import time
from typing import TYPE_CHECKING

from benchmarks.kv_only.passes import MAX_TOKENS, make_request, make_runner, plan_pass, run_pass
from prefillshare.bench.families.factory import make_family
from prefillshare.bench.report.machine import processor_name

if TYPE_CHECKING:
    from sglang.srt.model_executor.model_runner import ModelRunner

FIRST_TOKEN, NUM_TOKENS = 10, 900
"""Tokens that every family has."""


def measure(runner: "ModelRunner", prompt: list[int], prefix: int, num_wanted: int) -> float:
    """Seconds of the pass behind the prefix."""
    req = make_request(runner, prompt, num_wanted)
    if prefix:
        run_pass(runner, req, plan_pass(runner, req, prefix))
    planned = plan_pass(runner, req, len(prompt))
    begun = time.perf_counter()
    run_pass(runner, req, planned)
    return time.perf_counter() - begun


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.kv_only", description=__doc__.splitlines()[0])
    parser.add_argument("--family", default="bench-0.1b", help="family of models (bench-0.1b)")
    parser.add_argument("--tokens", type=int, nargs="+", default=[33, 128, 512], help="new tokens of a pass")
    parser.add_argument("--prefix", type=int, default=1000, help="tokens before them")
    parser.add_argument("--rounds", type=int, default=15, help="passes of each kind and length")
    options = parser.parse_args()
    if options.prefix + max(options.tokens) >= MAX_TOKENS:
        sys.exit(f"error: {options.prefix} + {max(options.tokens)} tokens: at most {MAX_TOKENS - 1} fit")
    os.environ |= {"SGLANG_PLUGINS": "prefillshare,prefillshare_cpu", "CUDA_VISIBLE_DEVICES": ""}
    runner = make_runner(str(make_family(options.family).deployment(1, print).prefill.path))
    generator = random.Random(1)
    print(f"{options.family}, {options.prefix} tokens before, {processor_name()}, Python {platform.python_version()}\n")
    print("| new tokens | whole, ms | KV only, ms | |\n|---:|---:|---:|---:|")
    for num_new in options.tokens:
        seconds: dict[int, list[float]] = {0: [], 1: []}
        for _ in range(options.rounds + 1):
            prompt = [FIRST_TOKEN + generator.randrange(NUM_TOKENS) for _ in range(options.prefix + num_new)]
            for num_wanted, found in seconds.items():
                found.append(measure(runner, prompt, options.prefix, num_wanted))
        only, whole = (statistics.median(found[1:]) * 1e3 for found in seconds.values())
        print(f"| {num_new} | {whole:.1f} | {only:.1f} | {only / whole:.3f}x |", flush=True)


if __name__ == "__main__":
    main()

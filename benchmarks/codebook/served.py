"""Speed and memory of a served module of half a billion weights: `python -m benchmarks.codebook.served`.

A prefill worker and a decode worker, one call at a time: the module with full weights in bfloat16 and in float32, and
of 2-bit codebooks with everything else in both types. An answer's tokens after its first one are timed together; the
median round counts. Then a prefill worker and `--modules` decode workers, in bfloat16: what all of their processes
hold (PSS: what several share is divided among them). Weights are random; the first call writes a few GiB below the
cache directory.
"""

import argparse
import json
import platform
import statistics
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

import psutil

from benchmarks.codebook.family import NUM_LAYERS, make_base, make_coded, make_full
from prefillshare import direct
from prefillshare.bench.report.machine import processor_name
from prefillshare.codebook.shape import CodebookShape
from prefillshare.config import DecodeModule, Deployment, Engine, PrefillModule
from prefillshare.modules.deployment import resolve
from prefillshare.quantize.layers import sizes_of
from prefillshare.quantize.source import WeightSource
from prefillshare.serving.launch import RunningDeployment, launch
from prefillshare.serving.machine.ports import free_port
from prefillshare.serving.options import LaunchOptions

MIB = 2**20
MAX_TOKENS = 2048
"""KV of each worker: little beside the weights."""
WARM_TOKENS = 8
"""Of an answer before the one that is timed: the first products compile or load kernels."""
WAYS = (("full", "bfloat16"), ("full", "float32"), ("2-bit", "bfloat16"), ("2-bit", "float32"))


@dataclass(frozen=True, slots=True, kw_only=True)
class Family:
    """Where the models are."""

    base: Path
    """The prefill module."""
    modules: dict[str, Path]
    """A decode module of each kind of weights."""


@contextmanager
def serve(family: Family, weights: str, dtype: str, num_modules: int) -> Iterator[RunningDeployment]:
    """A deployment of one prefill worker and so many decode workers."""
    decode = tuple(
        DecodeModule(name=f"module-{number}", kind="full", path=family.modules[weights])
        for number in range(num_modules)
    )
    deployment = Deployment(
        name="codebook",
        topology="disaggregated",
        prefill=PrefillModule(name="base", path=family.base, eager_answers=False),
        decode=decode,
        engine=Engine(device="cpu", dtype=dtype, max_total_tokens=MAX_TOKENS, threads=1),  # type: ignore[arg-type]
    )
    with TemporaryDirectory() as logs:
        options = LaunchOptions(port=free_port(), log_path=Path(logs) / "router.log")
        running = launch(resolve(deployment), options)
        try:
            yield running
        finally:
            running.stop(drain_s=0)


def step_s(url: str, num_tokens: int) -> float:
    """Seconds of a token of one answer, the first one apart."""
    body = {
        "model": "module-0",
        "prompt": [10 + i * 31 % 1000 for i in range(64)],
        "max_tokens": num_tokens,
        "temperature": 0,
        "ignore_eos": True,
        "stream": True,
    }
    times = []
    with (
        direct.direct_client(base_url=url, timeout=600) as client,
        client.stream("POST", "/v1/completions", json=body) as reply,
    ):
        reply.raise_for_status()
        for line in direct.read_lines(reply):
            if line.startswith(b"data: {") and json.loads(line.removeprefix(b"data: "))["choices"]:
                times.append(time.perf_counter())
    # A busy engine sends several tokens at once, but the first one alone.
    return (times[-1] - times[0]) / (num_tokens - 1)


def pss_bytes(running: RunningDeployment) -> dict[str, int]:
    """What the processes of each worker hold, by the worker's name."""
    held = {}
    for record in running.processes():
        assert record.pid is not None, f"{record.name} does not run"
        main = psutil.Process(record.pid)
        held[record.name] = sum(process.memory_full_info().pss for process in (main, *main.children(recursive=True)))
    return held


def measure_speed(family: Family, options: argparse.Namespace) -> None:
    """Print tokens per second of each way; rounds take turns."""
    steps: dict[tuple[str, str], list[float]] = {way: [] for way in WAYS}
    for _ in range(options.rounds):
        for way in WAYS:
            with serve(family, *way, num_modules=1) as running:
                step_s(running.url, WARM_TOKENS)
                steps[way].append(step_s(running.url, options.tokens))
    rates = {way: 1 / statistics.median(found) for way, found in steps.items()}
    print("| weights | else | tokens/s | to full bf16 | to full f32 |\n|---|---|---:|---:|---:|")
    for (weights, dtype), rate in rates.items():
        to_bf16, to_f32 = rate / rates["full", "bfloat16"], rate / rates["full", "float32"]
        print(f"| {weights} | {dtype} | {rate:.2f} | {to_bf16:.2f}x | {to_f32:.2f}x |", flush=True)


def measure_memory(family: Family, options: argparse.Namespace) -> None:
    """Print what workers hold with full weights and with codes."""
    stored = {weights: _loaded_bytes(family, weights) for weights in family.modules}
    print("\n| weights | of a module, MiB | of all decode modules | PSS of decode workers, MiB | of all processes |")
    print("|---|---:|---:|---:|---:|")
    decoding = {}
    for weights in family.modules:
        with serve(family, weights, "bfloat16", options.modules) as running:
            step_s(running.url, WARM_TOKENS)
            held = pss_bytes(running)
        decoding[weights] = sum(size for name, size in held.items() if name.startswith("decode"))
        sizes = (stored[weights], stored[weights] * options.modules, decoding[weights], sum(held.values()))
        print(f"| {weights} | {' | '.join(f'{size / MIB:,.0f}' for size in sizes)} |", flush=True)
    print(f"\nweights {stored['2-bit'] / stored['full']:.3f}x, PSS {decoding['2-bit'] / decoding['full']:.3f}x of bf16")


def _loaded_bytes(family: Family, weights: str) -> int:
    """Bytes of a module's weights in a bfloat16 deployment."""
    sizes = sizes_of(WeightSource(family.base), CodebookShape())
    return sizes.other_bytes + (2 * sizes.num_weights if weights == "full" else sizes.linear_bytes)


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.codebook.served", description=__doc__)
    parser.add_argument("--layers", type=int, default=NUM_LAYERS, help="decoder layers; fewer for a quick try")
    parser.add_argument("--tokens", type=int, default=96, help="tokens of each answer")
    parser.add_argument("--rounds", type=int, default=3, help="times that speed is measured; 0: not at all")
    parser.add_argument("--modules", type=int, default=8, help="decode modules whose memory is measured; 0: none")
    options = parser.parse_args()
    base = make_base(options.layers)
    coded, full = make_coded(base, options.layers), make_full(base, options.layers)
    family = Family(base=base, modules={"full": full, "2-bit": coded})
    command = " ".join(["python -m benchmarks.codebook.served", *sys.argv[1:]])
    print(f"{processor_name()}, Python {platform.python_version()}, one thread a worker; `{command}`\n")
    if options.rounds:
        measure_speed(family, options)
    if options.modules:
        measure_memory(family, options)


if __name__ == "__main__":
    main()

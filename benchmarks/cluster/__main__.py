"""Measure a disaggregated deployment beside one plain SGLang server, in turn, in one run.

Run: `python -m benchmarks.cluster [--repeats N] [--out FILE]`. Prints a table; FILE gets it as Markdown with machine
and command. The plain server is `sglang.launch_server` with the base model, no plugin but the CPU platform's.
"""

import argparse
import contextlib
import os
import platform
import statistics
import subprocess
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import psutil

from prefillshare import direct
from prefillshare.config import load_deployment
from prefillshare.contract import CPU_PLUGIN
from prefillshare.modules.deployment import resolve
from prefillshare.serving.launch import RunningDeployment, running_deployment
from prefillshare.serving.machine.ports import free_port
from prefillshare.serving.plan.command import ENGINE_PROGRAM

MODELS = Path(__file__).parents[2] / "models"
DEPLOYMENT = MODELS / "tiny-agents-pd.toml"
IDLE_S = 20.0
NUM_CALLS = 60
NUM_TOKENS = 20
MODULES = ("math", "tool", "code")
SESSION_CALLS, SESSION_START, SESSION_GROWTH = 20, 600, 76
"""A session: calls of the modules in turn over a context of so many tokens that grows by so many per call."""


def main() -> None:
    """Run everything and print the table."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.cluster", description=__doc__)
    parser.add_argument("--repeats", type=int, default=3, help="starts of each system")
    parser.add_argument("--out", type=Path, help="Markdown file for the table")
    arguments = parser.parse_args()
    resolve(load_deployment(DEPLOYMENT))  # merges the adapters, which only the first launch does
    plain, ours, figures = [], [], {}
    for _ in range(arguments.repeats):
        plain.append(_time_plain_start())
        with running_deployment(DEPLOYMENT) as running:
            ours.append(running.start_s)
            figures = _measure(running)
    text = _table(plain, ours, figures, arguments.repeats)
    print(text)
    if arguments.out:
        arguments.out.parent.mkdir(parents=True, exist_ok=True)
        arguments.out.write_text(text)


def _time_plain_start() -> float:
    """Seconds from the start of the program to its first answer."""
    port = free_port()
    with _run_plain_server(port):
        started = time.monotonic()
        body = {"input_ids": [1, 2], "sampling_params": {"max_new_tokens": 1}}
        while True:
            try:
                if direct.post(f"http://127.0.0.1:{port}/generate", json=body, timeout=60).status_code == 200:
                    return time.monotonic() - started
            except httpx.TransportError:
                time.sleep(0.1)


@contextlib.contextmanager
def _run_plain_server(port: int) -> Iterator[None]:
    argv = [*ENGINE_PROGRAM, "--model-path", str(MODELS / "tiny" / "base"), "--port", str(port), "--device", "cpu"]
    argv += ["--dtype", "float32", "--max-total-tokens", "65536", "--skip-server-warmup", "--sleep-on-idle"]
    environment = {**os.environ, "SGLANG_PLUGINS": CPU_PLUGIN, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
    with tempfile.TemporaryFile() as log:
        process = subprocess.Popen(argv, env=environment, stdout=log, stderr=log, start_new_session=True)
        try:
            yield
        finally:
            os.killpg(process.pid, 9)
            process.wait()


def _measure(running: RunningDeployment) -> dict[str, float]:
    with direct.direct_client(base_url=running.url, timeout=60) as client:
        latencies = sorted(_measure_warm_call(client) for _ in range(NUM_CALLS))
        moved = sum(_measure_session_call(client, number) for number in range(SESSION_CALLS))
    time.sleep(2)
    before, started = _cpu_s(), time.monotonic()
    time.sleep(IDLE_S)
    idle = (_cpu_s() - before) / (time.monotonic() - started)
    return {
        "p50_ms": 1e3 * statistics.median(latencies),
        "p95_ms": 1e3 * latencies[int(0.95 * NUM_CALLS)],
        "idle_percent": 100 * idle,
        "pss_gib": sum(process.memory_full_info().pss for process in _processes()) / 2**30,
        "num_processes": len(_processes()),
        "moved_tokens": moved,
    }


def _measure_warm_call(client: httpx.Client) -> float:
    body = {"model": "math", "prompt": "Omar 3 boxes, beads 7 per box", "max_tokens": NUM_TOKENS, "ignore_eos": True}
    started = time.monotonic()
    reply = client.post("/v1/completions", json=body)
    reply.raise_for_status()
    return time.monotonic() - started


def _measure_session_call(client: httpx.Client, number: int) -> int:
    """One call of the session; the tokens of KV that it moved."""
    module, length = MODULES[number % len(MODULES)], SESSION_START + SESSION_GROWTH * (number + 1)
    prompt = [10 + (position * position + 7 * position) % 900 for position in range(length)]
    body = {"model": module, "input_ids": prompt, "sampling_params": {"max_new_tokens": 8, "temperature": 0}}
    reply = client.post("/generate", json=body)
    reply.raise_for_status()
    moved: int = reply.json()["meta_info"]["prefillshare"][0]["handoff_tokens"]
    return moved


def _processes() -> list[psutil.Process]:
    """Everything below this process but itself: fork server, workers, router."""
    return psutil.Process().children(recursive=True)


def _cpu_s() -> float:
    return sum(sum(process.cpu_times()[:2]) for process in _processes())


def _table(plain: list[float], ours: list[float], figures: dict[str, float], repeats: int) -> str:
    ratio = statistics.median(ours) / statistics.median(plain)
    rows = [
        ("start to first answer, 1 prefill + 3 decode workers + router", _seconds(ours)),
        ("start to first answer, one plain SGLang server", _seconds(plain)),
        ("ratio of the medians", f"{ratio:.2f}"),
        (f"memory (PSS) of all {figures['num_processes']:.0f} processes", f"{figures['pss_gib']:.2f} GiB"),
        (f"idle CPU over {IDLE_S:.0f} s", f"{figures['idle_percent']:.1f} % of one core"),
        (
            f"KV tokens moved in a session of {SESSION_CALLS} calls of {len(MODULES)} modules, of the lower bound "
            f"N·(L + C·δ) = {_lower_bound()}",
            f"{figures['moved_tokens']:.0f}, {figures['moved_tokens'] / _lower_bound():.3f} of it",
        ),
        (f"warm call of {NUM_TOKENS} tokens, p50 / p95 of {NUM_CALLS}", _milliseconds(figures)),
    ]
    lines = ["| figure | value |", "|---|---|", *(f"| {name} | {value} |" for name, value in rows)]
    machine = f"{platform.machine()}, {os.cpu_count()} cores, no GPU, Python {platform.python_version()}"
    return "\n".join(
        [
            "# A disaggregated deployment on one machine",
            "",
            f"`python -m benchmarks.cluster --repeats {repeats}`, {time.strftime('%Y-%m-%d')}; {machine}.",
            "",
            *lines,
            "",
        ]
    )


def _lower_bound() -> int:
    """Each module needs the whole context once: the longest prompt that any of them is asked."""
    return len(MODULES) * (SESSION_START + SESSION_CALLS * SESSION_GROWTH)


def _seconds(values: list[float]) -> str:
    return f"{statistics.median(values):.1f} s ({min(values):.1f} to {max(values):.1f})"


def _milliseconds(figures: dict[str, float]) -> str:
    return f"{figures['p50_ms']:.0f} ms / {figures['p95_ms']:.0f} ms"


if __name__ == "__main__":
    main()

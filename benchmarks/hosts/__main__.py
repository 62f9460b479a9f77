"""Put a deployment on three hosts that are namespaces of this machine, compare its answers, and kill its parts.

Run: `python -m benchmarks.hosts [--out FILE]`, as root. Host a has the router, b and c a prefill worker and a replica
of one module each. Answers are compared with those of the same deployment on one machine, which is started first.
"""

import argparse
import os
import platform
import tempfile
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from benchmarks.hosts import faults
from benchmarks.hosts.deployment import HostedDeployment, greedy, hosted
from benchmarks.hosts.faults import Fault, Result, try_fault
from benchmarks.hosts.load import Question
from benchmarks.hosts.machines import Host, can_have_hosts, network_of_hosts
from prefillshare import direct
from prefillshare.config import load_deployment
from prefillshare.modules.deployment import resolve
from prefillshare.serving.machine.ports import free_port
from prefillshare.serving.options import LaunchOptions
from prefillshare.serving.run.cluster import launch_cluster

DEPLOYMENT = Path(__file__).parents[2] / "models" / "tiny-agents-pd.toml"
MODULE = "tool"
_LENGTHS = ((90, 24), (400, 32), (1200, 48), (2500, 24), (700, 96))
"""Tokens of prompt and answer."""
_NUM_QUESTIONS = 25
_HOW_JUDGED = (
    "p95 before is of the 15 s before the fault, p95 since of all right answers from the fault until all is up again "
    "and 5 s more. Each kind of worker has a second one, which takes the calls. What is started again shares this "
    "machine's cores with those that answer, which machines of their own would not."
)


def main() -> None:
    """Run everything and print the table."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.hosts", description=__doc__)
    parser.add_argument("--out", type=Path, help="Markdown file for the table")
    parser.add_argument("--only", type=int, help="number of the one fault to try, from 0")
    arguments = parser.parse_args()
    if not can_have_hosts():
        raise SystemExit("namespaces cannot be made here: run as root, with iproute2 and util-linux")
    started = time.monotonic()
    questions = ask_one_machine()
    with tempfile.TemporaryDirectory(prefix="hosts-") as folder, network_of_hosts("abc", Path(folder)) as hosts:
        workers: dict[str, tuple[Host, str | None]] = {}
        for name in "bc":
            workers |= {f"prefill-{name}": (hosts[name], None), f"{MODULE}-{name}": (hosts[name], MODULE)}
        with hosted(DEPLOYMENT, hosts["a"], workers) as deployment:
            num_equal, num_remote = compare(deployment, questions)
            print(f"{num_equal} of {len(questions)} answers are those of one machine", flush=True)
            chosen = FAULTS if arguments.only is None else FAULTS[arguments.only : arguments.only + 1]
            results = []
            for fault in chosen:
                results.append(try_fault(deployment, fault, questions))
                print(results[-1], flush=True)
                text = write_table(f"{num_equal} of {len(questions)}", num_remote, results)
                if arguments.out:  # after each: a later one may take longer than anybody waits
                    arguments.out.write_text(text)
    print(text)
    print(f"{len(results)} faults in {(time.monotonic() - started) / 60:.1f} minutes, the start included")


def ask_one_machine() -> list[Question]:
    """Return questions with the answers of a deployment on one machine."""
    config = load_deployment(DEPLOYMENT)
    config = replace(config, decode=tuple(spec for spec in config.decode if spec.name == MODULE))
    questions = []
    running = launch_cluster(resolve(config), LaunchOptions(host="127.0.0.1", port=free_port()))
    try:
        for number in range(_NUM_QUESTIONS):
            num_prompt, num_tokens = _LENGTHS[number % len(_LENGTHS)]
            prompt = [20 + (number * 37 + position * 31 + position * position) % 900 for position in range(num_prompt)]
            body = greedy(prompt, num_tokens)
            reply = direct.post(f"{running.url}/modules/{MODULE}/generate", json=body, timeout=60).raise_for_status()
            tokens = reply.json()["output_ids"]
            questions.append(Question(module=MODULE, prompt=tuple(prompt), tokens=tuple(tokens)))
    finally:
        running.kill()
    return questions


def compare(deployment: HostedDeployment, questions: Sequence[Question]) -> tuple[int, int]:
    """Return how many answers are the same on hosts, and for how many KV crossed from host to host."""
    num_equal = num_remote = 0
    for question in questions:
        address = f"{deployment.url}/modules/{question.module}/generate"
        body = greedy(question.prompt, len(question.tokens))
        reply = direct.post(address, json=body, timeout=60).raise_for_status()
        num_equal += tuple(reply.json()["output_ids"]) == question.tokens
        pair = reply.headers["X-Prefill-Worker"], reply.headers["X-Decode-Worker"]
        num_remote += pair[0][-1] != pair[1][-1]
    return num_equal, num_remote


FAULTS = (
    Fault(name="kill -9 decode engine", strike=faults.kill_engine("decode")),
    Fault(name="kill -9 prefill engine", strike=faults.kill_engine("prefill")),
    Fault(name="kill -9 `prefillshare worker`, decode", strike=faults.kill_worker_command("decode")),
    Fault(name="kill -9 `prefillshare worker`, prefill", strike=faults.kill_worker_command("prefill")),
    Fault(name="kill -9 router", strike=faults.kill_router),
    Fault(name="kill -9 `prefillshare router`", strike=faults.kill_router_command),
    Fault(name="power off a host: cable, then all", strike=faults.power_off, revive=faults.power_on),
)


def write_table(equal: str, num_remote: int, results: Sequence[Result]) -> str:
    """Return the figures as Markdown."""
    lines = [
        f"Answers equal to one machine's: {equal}; KV crossed from host to host for {num_remote} of them.",
        "",
        "| fault | calls | wrong | hung | failed | of them had streamed | not taken (no router) "
        "| p95 before, since [s] | ratio (goal 2) | all up again [s] | orphans | doubled |",
        "|---|---|---|---|---|---|---|---|---|---|---|---|",
    ]
    for result in results:
        ends = result.ends
        streamed = ends.get("streamed, then failed", 0)
        lines.append(
            f"| {result.name} | {sum(ends.values())} | {ends.get('wrong', 0)} | {ends.get('hung', 0)} "
            f"| {ends.get('failed', 0) + streamed} | {streamed} | {ends.get('no router', 0)} "
            f"| {result.p95_before_s:.2f}, {result.p95_after_s:.2f} | {result.p95_after_s / result.p95_before_s:.1f} "
            f"| {result.recovery_s:.0f} "
            f"| {result.num_orphans} | {result.num_doubled} |"
        )
    machine = f"{platform.machine()}, {os.cpu_count()} cores, no GPU, Python {platform.python_version()}"
    return "\n".join([*lines, "", _HOW_JUDGED, "", f"({machine}; `make bench-hosts`.)", ""])


if __name__ == "__main__":
    main()

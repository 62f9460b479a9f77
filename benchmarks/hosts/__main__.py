"""Put a deployment on three hosts that are namespaces of this machine, compare its answers, and kill its parts.

Run: `python -m benchmarks.hosts [--out FILE]`, as root. Host a has the router, b and c a prefill worker and a replica
of one module each. Answers are compared with those of the same deployment on one machine, which is started first.
`--ray` has the hosts be nodes of a Ray cluster: a has head, router and a prefill worker, b and c a replica each.
"""

import argparse
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

from benchmarks.hosts import faults, ray_faults
from benchmarks.hosts.deployment import hosted
from benchmarks.hosts.load import Question
from benchmarks.hosts.machines import Host, can_have_hosts, network_of_hosts
from benchmarks.hosts.on_ray import hosted_on_ray
from benchmarks.hosts.table import write_table
from benchmarks.hosts.trial import Fault, Result, try_fault
from benchmarks.hosts.watched import ANSWER_S, Watched, greedy
from prefillshare import direct
from prefillshare.config import load_deployment
from prefillshare.modules.deployment import resolve
from prefillshare.serving.machine.ports import free_port
from prefillshare.serving.options import LaunchOptions
from prefillshare.serving.run.cluster import launch_cluster

MODELS = Path(__file__).parents[2] / "models"
DEPLOYMENT = MODELS / "tiny-agents-pd.toml"
MODULE = "tool"
ON_RAY = f"""
name = "on-hosts"
topology = "disaggregated"

[prefill]
name = "tiny-base"
path = "{MODELS}/tiny/base"

[[decode]]
name = "{MODULE}"
kind = "full"
merge = true
path = "{MODELS}/tiny/{MODULE}"
replicas = 2

[engine]
max_total_tokens = 65536
"""
_LENGTHS = ((90, 24), (400, 32), (1200, 48), (2500, 24), (700, 96))
"""Tokens of prompt and answer."""
_NUM_QUESTIONS = 25


def main() -> None:
    """Run everything and print the table."""
    given = _parse()
    if not can_have_hosts():
        raise SystemExit("namespaces cannot be made here: run as root, with iproute2 and util-linux")
    started, command = time.monotonic(), f"python -m benchmarks.hosts {' '.join(sys.argv[1:])}".strip()
    all_faults: Sequence[Fault[Any]] = ray_faults.FAULTS if given.ray else faults.FAULTS
    chosen = all_faults if given.only is None else [all_faults[given.only]]
    questions = ask_one_machine()
    results: list[Result] = []
    with (
        tempfile.TemporaryDirectory(prefix="hosts-") as folder,
        network_of_hosts("abc", Path(folder)) as hosts,
        _start(hosts, Path(folder), on_ray=given.ray) as deployment,
    ):
        num_equal, num_remote = compare(deployment, questions)
        equal = f"Answers equal to one machine's: {num_equal} of {len(questions)}"
        equal = f"{equal}; KV crossed from host to host for {num_remote} of them."
        print(equal, flush=True)
        for fault in chosen:
            results.append(try_fault(deployment, fault, questions))
            print(results[-1], flush=True)
            text = write_table([equal], results, command)
            if given.out:  # after each: a later one may take longer than anybody waits
                given.out.write_text(text)
    print(text)
    print(f"{len(results)} faults in {(time.monotonic() - started) / 60:.1f} minutes, the start included")


def _parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.hosts", description=__doc__)
    parser.add_argument("--out", type=Path, help="Markdown file for the table")
    parser.add_argument("--ray", action="store_true", help="place the deployment on a Ray cluster of the hosts")
    parser.add_argument("--only", type=int, help="number of the one fault to try, from 0")
    given = parser.parse_args()
    num_faults = len(ray_faults.FAULTS if given.ray else faults.FAULTS)
    if given.only is not None and not 0 <= given.only < num_faults:
        parser.error(f"--only {given.only}: there are faults 0 to {num_faults - 1}")
    return given


@contextmanager
def _start(hosts: Mapping[str, Host], folder: Path, *, on_ray: bool) -> Iterator[Watched]:
    if on_ray:
        with hosted_on_ray(ON_RAY, hosts, folder, MODULE) as placed:
            yield placed
        return
    workers: dict[str, tuple[Host, str | None]] = {}
    for name in "bc":
        workers |= {f"prefill-{name}": (hosts[name], None), f"{MODULE}-{name}": (hosts[name], MODULE)}
    with hosted(DEPLOYMENT, hosts["a"], workers) as deployment:
        yield deployment


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
            reply = direct.post(
                f"{running.url}/modules/{MODULE}/generate", json=body, timeout=ANSWER_S
            ).raise_for_status()
            tokens = reply.json()["output_ids"]
            questions.append(Question(module=MODULE, prompt=tuple(prompt), tokens=tuple(tokens)))
    finally:
        running.kill()
    return questions


def compare(deployment: Watched, questions: Sequence[Question]) -> tuple[int, int]:
    """Return how many answers are the same on hosts, and for how many KV crossed from host to host."""
    num_equal = num_remote = 0
    hosts = {name: worker["url"].rpartition(":")[0] for name, worker in deployment.describe_workers().items()}
    for question in questions:
        address = f"{deployment.url}/modules/{question.module}/generate"
        body = greedy(question.prompt, len(question.tokens))
        reply = direct.post(address, json=body, timeout=ANSWER_S).raise_for_status()
        num_equal += tuple(reply.json()["output_ids"]) == question.tokens
        num_remote += hosts[reply.headers["X-Prefill-Worker"]] != hosts[reply.headers["X-Decode-Worker"]]
    return num_equal, num_remote


if __name__ == "__main__":
    main()

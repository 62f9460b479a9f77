"""A deployment on a Ray cluster of three hosts, which are namespaces: a cable is cut under load, and strangers come.

Root only; elsewhere they are left out, and said to be. `make test-long` runs them.
"""

import json
import sys
import tempfile
from collections.abc import Iterator, Mapping
from ipaddress import ip_address
from pathlib import Path

import pytest

from benchmarks.hosts import ray_faults
from benchmarks.hosts.__main__ import MODULE, ON_RAY, ask_one_machine, compare
from benchmarks.hosts.load import Question
from benchmarks.hosts.machines import Host, can_have_hosts, network_of_hosts
from benchmarks.hosts.on_ray import COMMAND_S, RAY_PORT, RayDeployment, hosted_on_ray
from benchmarks.hosts.trial import try_fault
from benchmarks.hosts.watched import PORT
from tests.support.marks import starts_engine
from tests.support.ray_strangers import METHODS
from tests.support.sockets import tcp_listening_at
from tests.support.strangers import Address

pytestmark = [
    pytest.mark.skipif(not can_have_hosts(), reason="hosts are namespaces, which only root can make"),
    pytest.mark.long,
    # A lost node is given up after a minute, and its worker is started anew: minutes, where the machine is busy.
    pytest.mark.timeout(2400),
]
COUNTS_PORT = 44217
"""Where the head's autoscaler, which nothing here uses, tells its counts."""
NOTHING = {"UNAUTHENTICATED", "UNIMPLEMENTED", "UNAVAILABLE"}
"""What strangers may get: refused, no service of Ray's, or no gRPC at all."""


@pytest.fixture(scope="module")
def hosts() -> Iterator[Mapping[str, Host]]:
    """Three for the cluster, one for strangers. In a short folder: Ray's sockets have long names."""
    with tempfile.TemporaryDirectory(prefix="h-") as folder, network_of_hosts("abcs", Path(folder)) as hosts:
        yield hosts


@pytest.fixture(scope="module")
@starts_engine
def questions() -> list[Question]:
    return ask_one_machine()


@pytest.fixture(scope="module")
@starts_engine
def deployment(hosts: Mapping[str, Host], questions: list[Question]) -> Iterator[RayDeployment]:
    places = {name: host for name, host in hosts.items() if name != "s"}
    folder = hosts["s"].folder
    with hosted_on_ray(ON_RAY, places, folder, MODULE) as deployment:
        yield deployment


def open_places(deployment: RayDeployment) -> set[Address]:
    """Where the hosts listen for others, by an address at which those reach it."""
    return {
        (host.address, port)
        for host in deployment.hosts
        for listens_at, port in tcp_listening_at(host.pid)
        if not ip_address(listens_at).is_loopback
    }


def ask_as(stranger: Host, asked: set[Address], token: str | None) -> dict[Address, dict[str, str]]:
    """What comes back on a host that is no node."""
    file, log = stranger.folder / "asked.json", stranger.folder / "answers.json"
    ordered = sorted(asked)
    file.write_text(json.dumps([[*address, token] for address in ordered]))
    log.unlink(missing_ok=True)
    process = stranger.start([sys.executable, "-W", "ignore", "-m", "tests.support.ray_strangers", str(file)], log)
    assert process.wait(900) == 0, log.read_text()
    return dict(zip(ordered, json.loads(log.read_text().splitlines()[-1]), strict=True))


def test_answers_are_those_of_one_machine(deployment, questions):
    num_equal, num_remote = compare(deployment, questions)
    assert num_equal == len(questions)
    assert num_remote > 0


def test_strangers_get_nothing_of_ray_and_break_nothing(deployment, hosts, questions):
    places = open_places(deployment)
    assert (deployment.head.address, RAY_PORT) in places
    answers = ask_as(hosts["s"], places, None)
    got = {
        (place, method): said
        for place, replies in answers.items()
        for method, said in replies.items()
        if method != "web" and said not in NOTHING
    }
    assert got == {}
    refusing = {place for place, replies in answers.items() if "UNAUTHENTICATED" in replies.values()}
    # The head's server, its client server, and of each node the raylet and what runs a member.
    assert len(refusing) >= 2 + 2 * len(deployment.hosts), refusing
    web = {place: replies["web"].split()[1] for place, replies in answers.items() if replies["web"]}
    # What docs/security.md names as open: the router, to clients, and counts of the head's.
    assert web.pop((deployment.head.address, PORT)) == "404"
    assert web.pop((deployment.head.address, COUNTS_PORT)) == "200"
    # Each node's agent, the workers, and the bootstrap server of the prefill worker.
    assert list(web.values()) == ["401"] * (len(deployment.hosts) + len(deployment.workers) + 1)
    assert compare(deployment, questions)[0] == len(questions)


def test_who_has_the_token_is_let_in(deployment, hosts):
    """Else the test above would show nothing."""
    token = deployment.token.read_text()
    [replies] = ask_as(hosts["s"], {(deployment.head.address, RAY_PORT)}, token).values()
    assert replies[METHODS[0]] == "OK"


def test_the_doctor_asks_the_cluster(deployment):
    words = [sys.executable, "-m", "prefillshare", "doctor", str(deployment.file), "--json"]
    assert doctor(deployment, words, {})["state"] == "ok"
    assert doctor(deployment, words, {"RAY_AUTH_MODE": "disabled"})["value"].endswith("wants a token")


def doctor(deployment: RayDeployment, words: list[str], variables: Mapping[str, str]) -> dict[str, str]:
    log = deployment.folder / "doctor.json"
    log.unlink(missing_ok=True)
    process = deployment.head.start(words, log, {**deployment.variables(), **variables})
    process.wait(COMMAND_S)
    line = next(line for line in log.read_text().splitlines() if line.startswith("["))
    return next(finding for finding in json.loads(line) if finding["name"] == "Ray")


@pytest.mark.parametrize("fault", ray_faults.FAULTS[1:], ids=lambda fault: fault.name)
def test_a_host_that_is_lost_and_comes_back_costs_only_streams(deployment, questions, fault):
    result = try_fault(deployment, fault, questions)
    print(result)
    assert set(result.ends) <= {"right", "streamed, then failed"}, (result.ends, result.why)
    assert (result.num_orphans, result.num_doubled) == (0, 0)

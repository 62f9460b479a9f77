"""A deployment on a Ray cluster whose nodes are hosts: head, router and prefill worker on one, a replica on each other.

The cluster wants a token, as docs/several-machines.md advises. Each node is `ray start --block`, as an init system
has it; the deployment is launched, and scaled, by the commands that people use.
"""

import secrets
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import psutil

from benchmarks.hosts.machines import Host
from benchmarks.hosts.watched import PORT, VARIABLES, Watched

RAY_PORT = 6379
COMMAND_S = 900.0
"""Longest wait for a command; a launch waits for engines."""
_OBJECT_STORE_BYTES = 80 << 20
"""The least that Ray takes; nothing of ours lies there."""
_NUM_CPUS = 16
_PORTS = "20000-20999"
_CLUSTER = """
[cluster]
network = "{network}"
ports = "{ports}"
token_file = "{token}"
router = {{ labels = {{ place = "front" }} }}
prefill = {{ labels = {{ place = "front" }} }}
decode = {{ labels = {{ place = "behind" }} }}
"""


@dataclass(slots=True, kw_only=True)
class RayDeployment(Watched):
    """The deployment, its cluster and the hosts."""

    places: Mapping[str, Host]
    """The hosts by name; the first one has the head, the router and the prefill worker."""
    folder: Path
    """Where deployment file, token and logs are."""
    module: str
    """The decode module; each of the other hosts has a replica."""
    nodes: "dict[str, subprocess.Popen[bytes]]" = field(default_factory=dict)
    """What entered each host; its child is `ray start`."""
    _num_commands: int = 0

    @property
    def head(self) -> Host:
        """The host with the head."""
        return next(iter(self.places.values()))

    @property
    def address(self) -> str:
        """Address of the cluster."""
        return f"{self.head.address}:{RAY_PORT}"

    @property
    def url(self) -> str:
        """Address of the router."""
        return f"http://{self.head.address}:{PORT}"

    @property
    def workers(self) -> Sequence[str]:
        """The prefill worker and the replicas."""
        return ["prefill-0", *(f"decode-{self.module}-{number}" for number in range(len(self.places) - 1))]

    @property
    def hosts(self) -> Sequence[Host]:
        """All of them."""
        return list(self.places.values())

    @property
    def file(self) -> Path:
        """The deployment file."""
        return self.folder / "on-hosts.toml"

    @property
    def token(self) -> Path:
        """The cluster's token; workers' key is made out of it, too."""
        return self.folder / "token"

    def logs(self) -> Sequence[Path]:
        """What nodes and commands said."""
        return sorted(self.folder.glob("*.log"))

    def keepers_on(self, host: Host) -> Sequence[psutil.Process]:
        """The node's first process; none while the host has no node."""
        node = self.nodes[host.name]
        return psutil.Process(node.pid).children() if node.poll() is None else []

    def host_of(self, worker: str) -> Host:
        """Return the host of a worker, by its address."""
        url = str(self.known_workers()[worker]["url"])
        [host] = [host for host in self.hosts if f"//{host.address}:" in url]
        return host

    def start_node(self, host: Host) -> None:
        """Let a host be a node of the cluster; it stays one while its process runs."""
        is_head = host is self.head
        words = ["--node-ip-address", host.address, "--labels", f"place={'front' if is_head else 'behind'}"]
        words += ["--temp-dir", str(host.folder / "ray"), "--num-cpus", str(_NUM_CPUS)]
        words += ["--object-store-memory", str(_OBJECT_STORE_BYTES)]
        words += ["--head", "--port", str(RAY_PORT), "--include-dashboard=false"] if is_head else []
        words += [] if is_head else ["--address", self.address]
        argv = [sys.executable, "-W", "ignore", "-m", "ray.scripts.scripts", "start", "--block", *words]
        log = self._node_log(host)
        log.unlink(missing_ok=True)  # what it says must be this node's
        self.nodes[host.name] = host.start(argv, log, self.variables(is_head))

    def wait_for_node(self, host: Host) -> None:
        """Wait until `ray start` says that a host is a node; where it gave up, as it does after 30 s, once more."""
        self.wait(lambda: self._is_node(host), f"{host.name} is a node")

    def _is_node(self, host: Host) -> bool:
        if self.nodes[host.name].poll() is not None:
            self.start_node(host)
        return "Ray runtime started" in self._node_log(host).read_text()

    def _node_log(self, host: Host) -> Path:
        return self.folder / f"node-{host.name}.log"

    def variables(self, is_head: bool = False) -> dict[str, str]:
        """Return what nodes and commands are started with: docs/several-machines.md."""
        own = {
            **VARIABLES,
            "PREFILLSHARE_CLUSTER": self.address,
            "RAY_AUTH_MODE": "token",
            "RAY_AUTH_TOKEN_PATH": str(self.token),
            "RAY_USAGE_STATS_ENABLED": "0",
            "RAY_worker_niceness": "0",
            "RAY_memory_monitor_refresh_ms": "0",
            # Else it starts an idle process for each of its cores, of which there are fewer here than it is told.
            "RAY_prestart_worker_first_driver": "0",
            "RAY_gcs_rpc_server_reconnect_timeout_s": "3600",
        }
        if is_head:
            own |= {"RAY_gcs_storage": "rocksdb", "RAY_gcs_storage_path": str(self.folder / "head")}
        return own

    def command(self, *words: str, host: Host | None = None, variables: Mapping[str, str] | None = None) -> str:
        """Run a command of `prefillshare` on a host, the head's if none; return what it printed.

        Raises: RuntimeError with that when it fails.
        """
        self._num_commands += 1
        log = self.folder / f"command-{self._num_commands}.log"
        argv = [sys.executable, "-W", "ignore", "-m", "prefillshare", *words]
        process = (host or self.head).start(argv, log, {**self.variables(), **(variables or {})})
        code = process.wait(COMMAND_S)
        if code:
            raise RuntimeError(f"`prefillshare {' '.join(words)}` ended with {code}: {log.read_text()[-2000:]}")
        return log.read_text()

    def spread(self) -> None:
        """Let each host have its replica again, when one has several."""
        for host in self.hosts:
            self.wait_for_node(host)
        replicas = [name for name in self.workers if name.startswith("decode-")]
        if len({self.host_of(name).name for name in replicas}) == len(replicas):
            return
        self.command("scale", f"{self.module}=1")
        self.command("scale", f"{self.module}={len(replicas)}")


@contextmanager
def hosted_on_ray(text: str, places: Mapping[str, Host], folder: Path, module: str) -> Iterator[RayDeployment]:
    """Start a cluster, and on it the deployment of a file's `text`, whose module has a replica for each other host."""
    deployment = RayDeployment(places=places, folder=folder, module=module)
    deployment.token.touch(mode=0o600)
    deployment.token.write_text(secrets.token_hex(32))
    network = f"{deployment.head.address.rpartition('.')[0]}.0/24"
    deployment.file.write_text(text + _CLUSTER.format(network=network, ports=_PORTS, token=deployment.token))
    try:
        for host in deployment.hosts:
            deployment.start_node(host)
            deployment.wait_for_node(host)
        deployment.command("launch", str(deployment.file), "--port", str(PORT), "--detach")
        deployment.wait(deployment.is_whole, "all workers are up")
        yield deployment
    finally:
        for node in deployment.nodes.values():
            node.kill()
            node.wait()

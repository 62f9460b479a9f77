"""What a started process finds in its environment, whatever the user's lacks or says of networks."""

import os
from collections.abc import Sequence
from pathlib import Path

from prefillshare.direct import proxy_exceptions
from prefillshare.places import missing_variables, temporary_folder
from prefillshare.serving.machine.interfaces import find_interface
from prefillshare.serving.options import DEFAULT_HOST

_OWN_HOSTS = (DEFAULT_HOST, "localhost", "::1")
_RENDEZVOUS = "SGLANG_DISTRIBUTED_INIT_METHOD_OVERRIDE"
_SPANNING_FLAGS = ("--dist-init-addr", "--nccl-init-addr", "--nnodes", "--node-rank")
_STORE_FLAGS = ("--dp-size", "--data-parallel-size", "--moe-a2a-backend", "--elastic-ep-backend")
"""Engines of several worlds, each of which needs a rendezvous of its own, or that read an address out of it."""


def network_variables(extra_args: Sequence[str], peer_host: str = DEFAULT_HOST) -> dict[str, str]:
    """Bind an engine to `peer_host`, at which its peers reach it, unless the user spreads it over several machines.

    What its own processes say to each other stays on this machine.
    Raises: LaunchError when this machine has no such address.
    """
    if _has_flag(extra_args, _SPANNING_FLAGS):
        return {}
    variables = {
        # The listener of a worker for its peers' messages.
        "SGLANG_HOST_IP": peer_host,
        # The transfer of KV between processes, where it takes a network at all.
        "UCX_NET_DEVICES": "lo" if peer_host == DEFAULT_HOST else find_interface(peer_host),
        # Collectives, on CPU and on GPUs.
        "GLOO_SOCKET_IFNAME": "lo",
        "NCCL_SOCKET_IFNAME": "lo",
    }
    return {name: value for name, value in variables.items() if name not in os.environ}


def process_variables(scratch: Path, argv: Sequence[str]) -> dict[str, str]:
    """Variables of a process that runs `argv` and keeps its temporary files in `scratch`."""
    variables = {**shared_variables(), "TMPDIR": str(scratch)}
    if not _has_flag(argv, (*_SPANNING_FLAGS, *_STORE_FLAGS)) and _RENDEZVOUS not in os.environ:
        # torch's own rendezvous would listen on every address of the machine.
        variables[_RENDEZVOUS] = f"file://{scratch}/rendezvous"
    return variables


def shared_variables() -> dict[str, str]:
    """Variables of every started process."""
    # Compiled kernels must outlive a process's own folder.
    compiled = str(temporary_folder() / f"torchinductor_{os.getuid()}")
    kept = {"TORCHINDUCTOR_CACHE_DIR": os.environ.get("TORCHINDUCTOR_CACHE_DIR", compiled)}
    # A process that gives itself a name writes it over its command line, and not over what /proc tells of its
    # environment, too.
    kept["SPT_NOENV"] = "1"
    return {**kept, **missing_variables(), **proxy_exceptions(_OWN_HOSTS)}


def _has_flag(argv: Sequence[str], flags: Sequence[str]) -> bool:
    return any(word.partition("=")[0] in flags for word in argv)

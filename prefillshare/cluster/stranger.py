"""Whether a Ray cluster takes a process with the token of its environment, or with none: its head is asked one word.

Run: `python -m prefillshare.cluster.stranger ADDRESS`. Prints `taken`, `refused`, or why nothing was learned; a
program of its own for those who ask with several tokens, because Ray reads the token once for each process.
"""

import contextlib
import os
import sys
from collections.abc import Iterator

CLIENT = "ray://"
"""Begins the address of a client server, which serves machines that are no nodes."""
_REFUSAL = "InvalidAuthToken"
_CLIENT_WORD = "/ray.rpc.RayletDriver/ClusterInfo"
_TIMEOUT_S = 10.0
TAKEN, REFUSED = "taken", "refused"


def ask_door(address: str) -> str:
    """Return `TAKEN`, `REFUSED`, or why it was not learned, of a head or, with ray:// before it, of a client server."""
    return _ask_client_server(address.removeprefix(CLIENT)) if address.startswith(CLIENT) else _ask_head(address)


def _ask_head(address: str) -> str:
    """Ask a head.

    One that is not there keeps Ray waiting for half a minute, and a token file that is not there ends the process.
    """
    from ray.experimental.internal_kv import GcsClient

    try:
        with _native_code_silent():
            GcsClient(address=address).internal_kv_exists(b"prefillshare", None)
    except Exception as error:  # Ray has no type for this one
        reason = f"{type(error).__name__}: {' '.join(str(error).split())}"
        return REFUSED if _REFUSAL in reason else reason
    return TAKEN


def _ask_client_server(address: str) -> str:
    import grpc
    from ray._private.grpc_utils import init_grpc_channel

    with init_grpc_channel(address) as channel:
        try:
            channel.unary_unary(_CLIENT_WORD)(b"", timeout=_TIMEOUT_S)
        except grpc.RpcError as error:
            code = error.code() if isinstance(error, grpc.Call) else None
            return REFUSED if code is grpc.StatusCode.UNAUTHENTICATED else f"{code}"
    return TAKEN


@contextlib.contextmanager
def _native_code_silent() -> Iterator[None]:
    """Ray's native code prints what its exception says, too."""
    sys.stderr.flush()
    kept = os.dup(2)
    with open(os.devnull, "wb") as nowhere:
        os.dup2(nowhere.fileno(), 2)
    try:
        yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)


if __name__ == "__main__":
    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
    print(ask_door(sys.argv[1]))

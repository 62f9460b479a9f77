"""What a process that has no token gets at the ports of a Ray cluster: `python -m tests.support.ray_strangers FILE`.

Reads a list of [address, port, token or null] as JSON from FILE; prints, for each, what Ray's services answered there
to a call without contents, by name of the gRPC status, and the status of a web server's answer.
"""

import json
import socket
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import grpc

METHODS = (
    # The head: who is there, all that is kept, programs to be run.
    "ray.rpc.NodeInfoGcsService/GetAllNodeInfo",
    "ray.rpc.InternalKVGcsService/InternalKVKeys",
    "ray.rpc.InternalKVGcsService/InternalKVPut",
    "ray.rpc.ActorInfoGcsService/GetAllActorInfo",
    "ray.rpc.ActorInfoGcsService/ListNamedActors",
    "ray.rpc.ActorInfoGcsService/RegisterActor",
    "ray.rpc.JobInfoGcsService/AddJob",
    "ray.rpc.JobInfoGcsService/GetAllJobInfo",
    # A node: a process that runs what it is sent, the contents of objects.
    "ray.rpc.NodeManagerService/RequestWorkerLease",
    "ray.rpc.NodeManagerService/GetNodeStats",
    "ray.rpc.NodeManagerService/ShutdownRaylet",
    "ray.rpc.ObjectManagerService/Pull",
    # A worker: tasks, its end.
    "ray.rpc.CoreWorkerService/PushTask",
    "ray.rpc.CoreWorkerService/KillActor",
    "ray.rpc.CoreWorkerService/Exit",
    "ray.rpc.CoreWorkerService/GetCoreWorkerStats",
    # The client server, and what watches a node.
    "ray.rpc.RayletDriver/Init",
    "ray.rpc.RayletDriver/ClusterInfo",
    "ray.rpc.RayletDriver/KVList",
    "ray.rpc.ReporterService/GetTraceback",
)
_TIMEOUT_S = 20.0
_CALL_S = 60.0
_NUM_AT_A_TIME = 16
Asked = tuple[str, int, str | None]


def main() -> None:
    """Ask at all of them."""
    asked: list[Asked] = [tuple(each) for each in json.loads(Path(sys.argv[1]).read_text())]
    with ThreadPoolExecutor(_NUM_AT_A_TIME) as pool:
        print(json.dumps(list(pool.map(_ask, asked))))


def _ask(asked: Asked) -> dict[str, str]:
    address, port, token = asked
    metadata = [("authorization", f"Bearer {token}")] if token else []
    with grpc.insecure_channel(f"{address}:{port}") as channel:
        # Who has a token asks for no more than a list: a call without contents may end who takes it.
        methods = (METHODS[:1] if token else METHODS) if _is_ready(channel) else ()
        said = {method: _call(channel, method, metadata) for method in methods}
    return dict.fromkeys(METHODS, "UNAVAILABLE") | said | {"web": _browse(address, port)}


def _is_ready(channel: grpc.Channel) -> bool:
    """Whether somebody there speaks gRPC at all; a call that is then not answered in time was taken."""
    try:
        grpc.channel_ready_future(channel).result(_TIMEOUT_S)
    except grpc.FutureTimeoutError:
        return False
    return True


def _call(channel: grpc.Channel, method: str, metadata: list[tuple[str, str]]) -> str:
    try:
        channel.unary_unary(f"/{method}")(b"", timeout=_CALL_S, metadata=metadata)
    except grpc.RpcError as error:
        return str(error.code().name) if isinstance(error, grpc.Call) else repr(error)
    return "OK"


def _browse(address: str, port: int) -> str:
    """The first line of what a web server answers, if it is one."""
    with socket.create_connection((address, port), timeout=_TIMEOUT_S) as stranger:
        stranger.settimeout(_TIMEOUT_S)
        try:
            stranger.sendall(b"GET / HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
            line = stranger.recv(4096).partition(b"\r\n")[0]
        except OSError:
            return ""
    return line.decode() if line.startswith(b"HTTP/1") else ""


if __name__ == "__main__":
    main()

"""A Ray cluster of three nodes on this machine: `python -m tests.support.ray_cluster FOLDER`, until stdin ends.

A program of its own, so that Ray's threads and warnings stay out of the tests' process. Prints one line of JSON: the
address, and the process ids of the two nodes without the head, which can be killed like machines. The lines `lose` and
`return` on stdin kill the head's server and start it again, from what it keeps in FOLDER; `grow` adds a node. Each is
answered by a line, the last one by the process id of the new node.
"""

import json
import os
import sys
import time
from typing import Any

OBJECT_STORE_BYTES = 80 << 20
"""The least that Ray takes; nothing of ours lies there."""
NUM_CPUS = 8
NUM_OTHERS = 2
NODE_WAIT_S = 300.0
"""Longest wait for a node to be known. Ray itself gives up after 30 s, and a busy machine takes longer."""


def main() -> None:
    """Start it, and keep it until stdin ends."""
    # Where other programs take the memory, Ray would end members.
    os.environ |= {"RAY_USAGE_STATS_ENABLED": "0", "RAY_worker_niceness": "0", "RAY_memory_monitor_refresh_ms": "0"}
    # What docs/several-machines.md says of a head that can be started again.
    os.environ |= {
        "RAY_gcs_storage": "rocksdb",
        "RAY_gcs_storage_path": sys.argv[1],
        "RAY_gcs_rpc_server_reconnect_timeout_s": "3600",
    }
    # Else Ray starts an idle process for each of a node's cores, of which there are fewer here than it is told.
    os.environ |= {"RAY_prestart_worker_first_driver": "0"}
    from ray._private import services
    from ray.cluster_utils import Cluster

    find_node = services.get_node

    def find_node_in_time(*asked: Any) -> Any:
        deadline = time.monotonic() + NODE_WAIT_S
        while True:
            try:
                return find_node(*asked)
            except RuntimeError:  # not known yet
                if time.monotonic() > deadline:
                    raise
                time.sleep(0.5)

    services.get_node = find_node_in_time
    common = {"num_cpus": NUM_CPUS, "object_store_memory": OBJECT_STORE_BYTES}
    head = {**common, "labels": {"place": "front"}, "include_dashboard": False, "include_log_monitor": False}
    cluster = Cluster(initialize_head=True, head_node_args=head)
    try:

        def grow() -> int:
            node = cluster.add_node(**common, labels={"place": "behind"}, include_log_monitor=False)
            pid: int = node.all_processes["raylet"][0].process.pid
            return pid

        pids = [grow() for _ in range(NUM_OTHERS)]
        print(json.dumps({"address": cluster.address, "others": pids}), flush=True)
        node = cluster.head_node
        changes = {"lose": node.kill_gcs_server, "return": node.start_gcs_server, "grow": grow}
        for line in sys.stdin:
            print(changes[line.strip()]() or line.strip(), flush=True)
    finally:
        cluster.shutdown()


if __name__ == "__main__":
    main()

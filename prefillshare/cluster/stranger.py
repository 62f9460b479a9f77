"""Whether a Ray cluster takes a process with the token of its environment, or with none: its head is asked one word.

Run: `python -m prefillshare.cluster.stranger HOST:PORT`. Prints `taken`, `refused`, or why nothing was learned; a
program of its own for those who ask with several tokens, because Ray reads the token once for each process.
"""

import os
import sys

_SETTINGS = {"RAY_USAGE_STATS_ENABLED": "0", "RAY_gcs_rpc_server_connect_timeout_s": "3"}
_REFUSAL = "unauthenticated"
TAKEN, REFUSED = "taken", "refused"


def ask_head(address: str) -> str:
    """Return `TAKEN`, `REFUSED`, or why it was not learned."""
    from ray._raylet import GcsClient

    try:
        GcsClient(address=address).internal_kv_exists(b"prefillshare", None)
    except Exception as error:  # Ray has no type for this one
        reason = f"{type(error).__name__}: {' '.join(str(error).split())}"
        return REFUSED if _REFUSAL in reason.lower() else reason
    return TAKEN


if __name__ == "__main__":
    os.environ |= _SETTINGS
    print(ask_head(sys.argv[1]))

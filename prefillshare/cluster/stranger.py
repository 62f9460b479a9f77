"""Whether a Ray cluster takes a process with the token of its environment, or with none: its head is asked one word.

Run: `python -m prefillshare.cluster.stranger HOST:PORT`. Prints `taken`, `refused`, or why nothing was learned; a
program of its own for those who ask with several tokens, because Ray reads the token once for each process.
"""

import contextlib
import os
import sys
from collections.abc import Iterator

_REFUSAL = "InvalidAuthToken"
TAKEN, REFUSED = "taken", "refused"


def ask_head(address: str) -> str:
    """Return `TAKEN`, `REFUSED`, or why it was not learned.

    A head that is not there keeps Ray waiting for half a minute, and a token file that is not there ends the process.
    """
    from ray.experimental.internal_kv import GcsClient

    try:
        with _native_code_silent():
            GcsClient(address=address).internal_kv_exists(b"prefillshare", None)
    except Exception as error:  # Ray has no type for this one
        reason = f"{type(error).__name__}: {' '.join(str(error).split())}"
        return REFUSED if _REFUSAL in reason else reason
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
    print(ask_head(sys.argv[1]))

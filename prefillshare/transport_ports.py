"""The ports that KV transport takes of by itself, for firewalls between hosts: nothing else is given one of them.

NIXL's UCX obeys the variable, and so does the listener of a worker's hand-offs
(:mod:`sglang_patches.disaggregation.ports`).
"""

import os
import re

RANGE_VARIABLE = "UCX_TCP_PORT_RANGE"
"""UCX's own: the first and the last port, such as 20500-20999; unset, or 0, any free one is taken."""
_RANGE = re.compile(r"(\d{1,5})-(\d{1,5})")


def read_transport_ports() -> range:
    """Return the ports that transport was given; none where it takes any free one, which the system chooses."""
    found = _RANGE.fullmatch(os.environ.get(RANGE_VARIABLE, ""))
    return range(int(found[1]), int(found[2]) + 1) if found else range(0)

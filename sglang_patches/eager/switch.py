"""Whether this engine computes answers ahead, and how its jobs are told from calls.

The launcher says it to every process of the engine, by environment variable. A job is told from a call by its request
id alone: that goes everywhere, from the HTTP process to each rank's scheduler, and into aborts.
"""

from __future__ import annotations

import os
import uuid

from prefillshare.contract import EAGER_RID_PREFIX, EAGER_VARIABLE

QUIET_RID = f"{EAGER_RID_PREFIX}quiet"
"""What an abort names that is the word of an HTTP process that no call runs (:mod:`sglang_patches.eager.quiet`)."""


def read_min_tokens() -> int | None:
    """Shortest part of a prompt that is computed ahead, in tokens; None where nothing is."""
    given = os.getenv(EAGER_VARIABLE)
    return int(given) if given else None


def make_rid(given: object = None) -> str:
    """A request id for a job; one that a router has given stays in it, so that the router can abort the job."""
    return f"{EAGER_RID_PREFIX}{given if isinstance(given, str) and given else uuid.uuid4().hex}"


def is_eager_rid(rid: object) -> bool:
    """Whether this is the id of a job."""
    return isinstance(rid, str) and rid.startswith(EAGER_RID_PREFIX)

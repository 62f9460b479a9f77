"""The child of `sandbox`: takes away its own rights, then runs the function it reads from stdin.

Runs as a script under `python -I`, so it imports nothing of this package. Everything it needs is imported before the
limits are set.
"""

import bisect
import collections
import copy
import ctypes
import datetime
import decimal
import fractions
import functools
import hashlib
import heapq
import io
import itertools
import json
import math
import operator
import os
import random
import re
import resource
import statistics
import string
import sys
import typing

# Answers may import these; others may be out of reach once the rights are gone.
FOR_ANSWERS = (
    bisect,
    collections,
    copy,
    datetime,
    decimal,
    fractions,
    functools,
    hashlib,
    heapq,
    itertools,
    math,
    operator,
) + (random, re, statistics, string, typing)

CLONE_NEWUSER, CLONE_NEWNET = 0x10000000, 0x40000000
PR_SET_NO_NEW_PRIVS = 38
NOBODY = 65534


def leave_network() -> bool:
    """Move into an empty network namespace, where the system permits it."""
    libc = ctypes.CDLL(None, use_errno=True)
    return any(libc.unshare(flags) == 0 for flags in (CLONE_NEWNET, CLONE_NEWUSER | CLONE_NEWNET))


def limit(cpu_s: int, memory_bytes: int) -> None:
    """Set hard limits; root becomes nobody first, since the limit of processes does not bind root."""
    for kind, value in (
        (resource.RLIMIT_CPU, cpu_s),
        (resource.RLIMIT_AS, memory_bytes),
        (resource.RLIMIT_FSIZE, 0),
        (resource.RLIMIT_NOFILE, 16),
        (resource.RLIMIT_CORE, 0),
        (resource.RLIMIT_NPROC, 0),
    ):
        resource.setrlimit(kind, (value, value))
    ctypes.CDLL(None).prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0)
    if os.geteuid() == 0:
        drop_root()


def drop_root() -> None:
    try:
        os.setgroups([])
        os.setgid(NOBODY)
        os.setuid(NOBODY)
    except OSError:
        # Root of a user namespace without a mapping for nobody: it has no rights outside to drop.
        pass


def outcome(function: object, argument: object) -> dict[str, object]:
    try:
        return {"value": json.loads(json.dumps(function(argument)))}  # type: ignore[operator]
    except BaseException as error:
        return {"error": f"{type(error).__name__}: {error}"[:200]}


def main() -> None:
    job = json.load(sys.stdin)
    is_offline = leave_network()
    report = os.fdopen(os.dup(1), "w")
    sys.stdout = sys.stderr = io.StringIO()
    limit(job["cpu_s"], job["memory_bytes"])
    names: dict[str, object] = {"__name__": "answer"}
    try:
        exec(compile(job["source"], "answer", "exec"), names)
        function = names[job["function"]]
        result: dict[str, object] = {"outcomes": [outcome(function, case) for case in job["cases"]]}
    except BaseException as error:
        result = {"error": f"{type(error).__name__}: {error}"[:200]}
    json.dump({**result, "is_offline": is_offline}, report)
    report.flush()
    os._exit(0)


if __name__ == "__main__":
    main()

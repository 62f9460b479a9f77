"""How far a starting engine is, and why one failed: both read from its log."""

import re
from pathlib import Path

from prefillshare.contract import PATCHES_PROGRAM

# Text in the log -> what happens from then on. In the order in which they come.
STAGES: tuple[tuple[str, str], ...] = (
    ("server_args=", "starting the workers"),
    ("Load weight begin", "loading the prefill module"),
    ("as backend of LoRA kernels", "loading the decode modules"),
    ("KV Cache is allocated", "starting the HTTP server"),
)
FIRST_STAGE = "importing SGLang"
LAST_STAGE = "answering a first request"

_PATCH_REASON = re.compile(rf"^(?:SystemExit: )?({PATCHES_PROGRAM}: .+)$", re.MULTILINE)
_ARGUMENT_ERROR = re.compile(r"^sglang serve: error: (.+)$|^launch_server\.py: error: (.+)$", re.MULTILINE)
_ROUTER_ERROR = re.compile(r"^error: (.+)$", re.MULTILINE)
_PYTHON_ERROR = re.compile(
    r"^(?:\w+\.)*(\w*(?:Error|Exception|Interrupt|SystemExit)): ?(.+(?:\n(?! |Traceback|\[).+){0,2})", re.MULTILINE
)
# What uvicorn says when another program took the port since the launcher looked.
_PORT_TAKEN = re.compile(r"error while attempting to bind on address \('([^']+)', (\d+).*in use")
# How a process of SGLang announces the exception that ends it.
_LAST_WORDS = " hit an exception: "
# What its first process says of another one that was killed, before it ends itself.
_CRASHED = re.compile(r"Subprocess (\S+ \(pid=\d+\) crashed with exit code -?\d+)")
_MOST_LAST_LINES = 40
_NOISE = ("KeyboardInterrupt", "SystemExit")


def find_stages(log: str) -> list[str]:
    """Return what a starting engine has begun, in order, given its log so far; the last of them is what it is doing."""
    reached = max((number for number, (text, _) in enumerate(STAGES, start=1) if text in log), default=0)
    return [FIRST_STAGE, *(stage for _, stage in STAGES[:reached])]


def find_reason(log: str) -> str | None:
    """Return the engine's own reason for its failure: the patches', argparse's, a port's, or the first Python error."""
    if match := _PATCH_REASON.search(log):
        return match[1].strip()
    if match := _ARGUMENT_ERROR.search(log):
        return (match[1] or match[2]).strip()
    if match := _ROUTER_ERROR.search(log):
        return match[1].strip()
    if match := _PORT_TAKEN.search(log):
        return (
            f"port {match[2]} on {match[1]} was taken while the engine started: choose one with --port that outgoing "
            "connections do not get (/proc/sys/net/ipv4/ip_local_port_range)"
        )
    for match in _PYTHON_ERROR.finditer(log):
        if match[1] not in _NOISE:
            return " ".join(f"{match[1]}: {match[2]}".split())
    return None


def find_cause_of_death(log: str, exit_code: int | None) -> str | None:
    """Return the reason in its own words of an engine that had served; None where it gives none.

    Its log may be long, with errors in it that it went on after: only its last words count, and what was killed from
    outside has none.
    """
    if (start := log.rfind(_LAST_WORDS)) >= 0:
        return find_reason(log[start + len(_LAST_WORDS) :])
    if match := _CRASHED.search(log):
        return match[1]
    if exit_code is not None and exit_code < 0:
        return None
    return find_reason("\n".join(last_lines(log, _MOST_LAST_LINES)))


def read_log(path: Path, start: int = 0) -> str:
    """Return the log from byte `start` on; empty when it cannot be read."""
    try:
        return path.read_bytes()[start:].decode(errors="replace")
    except OSError:
        return ""


def last_lines(log: str, count: int = 15) -> list[str]:
    """Return the last lines that hold something."""
    return [line for line in log.splitlines() if line.strip()][-count:]

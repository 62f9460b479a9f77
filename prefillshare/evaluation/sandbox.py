"""Runs a Python function written by a model, in a process of its own with limits.

What is guaranteed on Linux: CPU time, wall time, address space and the size of the reply are bounded; no file gets a
byte written; no process or thread can be started; the environment is empty and the directory is a temporary one that
is deleted. Where the kernel lets the process leave its network namespace (root, or unprivileged user namespaces) it
has no network; `Outcome.is_offline` says whether it was so.

What is not guaranteed: it is a guard against broken answers, not a prison. Code that looks for holes can read files
that the user (or nobody, if started by root) may read and, without the namespace, reach the network. Run answers of
models that you do not trust in a container or a virtual machine.
"""

import contextlib
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from prefillshare.errors import EvaluationError
from prefillshare.open_files import is_readable

CHILD = Path(__file__).with_name("sandbox_child.py")


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """What one run may use."""

    cpu_s: int = 2
    """CPU time in seconds: how long an answer may compute, on whatever machine."""
    wall_s: float = 60.0
    """Wall time in seconds, for an answer that waits for what never comes. An answer that computes on a machine with
    much else to do must not meet it."""
    memory_bytes: int = 256 * 2**20
    """Address space in bytes."""
    reply_bytes: int = 2**16
    """Largest reply in bytes."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """What came of one run."""

    values: tuple[Any, ...] = ()
    """What the function returned for each case, through JSON; an `_Failure` text where it raised."""
    error: str | None = None
    """Why there are no values, or the first error that the function raised."""
    is_offline: bool = False
    """Whether the process had no network."""


def run_function(source: str, function: str, cases: list[Any], limits: Limits | None = None) -> Outcome:
    """Define `function` by `source` and call it with each case.

    Effects: starts a process and waits for its end.
    Raises: EvaluationError when the process cannot be started.
    """
    limits = limits or Limits()
    job = {
        "source": source,
        "function": function,
        "cases": cases,
        "cpu_s": limits.cpu_s,
        "memory_bytes": limits.memory_bytes,
    }
    with tempfile.TemporaryDirectory(prefix="prefillshare-sandbox-") as directory:
        process = _start(directory)
        try:
            _send(process, json.dumps(job).encode())
            reply, error = _receive(process, limits)
        finally:
            _kill(process)
    return Outcome(error=error) if error else _outcome(reply, process.returncode)


def _start(directory: str) -> "subprocess.Popen[bytes]":
    try:
        return subprocess.Popen(
            [sys.executable, "-I", "-S", str(CHILD)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            cwd=directory,
            env={},
            start_new_session=True,
        )
    except OSError as error:
        raise EvaluationError(f"cannot start a sandbox process: {error}") from error


def _send(process: "subprocess.Popen[bytes]", job: bytes) -> None:
    assert process.stdin is not None
    try:
        process.stdin.write(job)
        process.stdin.close()
    except BrokenPipeError:
        pass  # the process died early; the reply says so


def _receive(process: "subprocess.Popen[bytes]", limits: Limits) -> tuple[bytes, str | None]:
    """The reply up to its end, or why there is none."""
    assert process.stdout is not None
    deadline, reply = time.monotonic() + limits.wall_s, b""
    while True:
        remaining = deadline - time.monotonic()
        if remaining <= 0 or not is_readable(process.stdout, remaining):
            return b"", f"took longer than {limits.wall_s} s"
        chunk = os.read(process.stdout.fileno(), 4096)
        if not chunk:
            return reply, None
        reply += chunk
        if len(reply) > limits.reply_bytes:
            return b"", f"returned more than {limits.reply_bytes} bytes"


def _kill(process: "subprocess.Popen[bytes]") -> None:
    if process.poll() is None:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    if process.stdout is not None:
        process.stdout.close()


def _outcome(reply: bytes, code: int) -> Outcome:
    try:
        result = json.loads(reply)
    except ValueError:
        return Outcome(error=f"was stopped by a limit ({_reason(code)})")
    if "error" in result:
        return Outcome(error=result["error"], is_offline=result["is_offline"])
    raised = [outcome["error"] for outcome in result["outcomes"] if "error" in outcome]
    return Outcome(
        values=tuple(outcome.get("value") for outcome in result["outcomes"]),
        error=raised[0] if raised else None,
        is_offline=result["is_offline"],
    )


def _reason(code: int) -> str:
    return signal.Signals(-code).name if code < 0 else f"exit code {code}"
